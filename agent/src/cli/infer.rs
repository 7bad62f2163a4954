//! `infer`: one image of a person's to the running agent, and its answer in words. Owns how an image becomes the model's
//! input; speaks the protocol as any client does.

use std::fmt;
use std::fs::File;
use std::io::{Cursor, Read as _};
use std::path::{Path, PathBuf};

use clap::Args;
use image::imageops::FilterType;
use image::{DynamicImage, ImageReader, Limits};
use proto::ByteSize;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::api::{Api, ApiError, INFERENCE};
use super::status::running;
use super::{CliError, Format, table};
use crate::config::{self, Config};
use crate::state::{FileError, StateDir};

/// An image's file, and what its decoder may take.
const MOST_BYTES: u64 = 256 << 20;

/// What to ask.
#[derive(Debug, Args)]
pub struct Arguments {
    /// A PNG or JPEG file
    #[arg(long, value_name = "FILE")]
    image: PathBuf,
    /// Where the agent listens; unless given, its configuration says
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "config")]
    address: Option<String>,
    /// The running agent's configuration file
    #[arg(long, value_name = "FILE", default_value = config::USUAL_PATH)]
    config: PathBuf,
    /// Print so many classes, likeliest first
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    top: u32,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum InferError {
    /// The agent.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file is no image.
    #[error("{} is no PNG or JPEG that can be read", path.display())]
    Image {
        /// Which.
        path: PathBuf,
        /// Why.
        source: image::ImageError,
    },
    /// The agent takes something else than pictures.
    #[error("the model takes {channels} channels; a picture has 1 or 3")]
    Channels {
        /// What the model takes.
        channels: usize,
    },
    /// It has nothing to ask.
    #[error(
        "the agent at {address} serves no model; `reconvene-agent status` says what is installed, why it does not serve, and \
         whether the coordinator is connected, which would assign one"
    )]
    NoModel {
        /// Whom was asked.
        address: String,
    },
    /// The agent's answer makes no sense.
    #[error("the agent at {address} does not say {what}")]
    Answer {
        /// Whom was asked.
        address: String,
        /// What is missing.
        what: &'static str,
    },
    /// Nothing serves.
    #[error("no agent runs with the state directory {}; start it, or give --address", path.display())]
    NotRunning {
        /// Which.
        path: PathBuf,
    },
    /// Something runs, and cannot be found.
    #[error(
        "an agent has the state directory {} and does not say where it listens; give --address, which its log has beside 'ready'",
        path.display()
    )]
    Nowhere {
        /// Which.
        path: PathBuf,
    },
}

/// What the agent saw.
#[derive(Debug, Serialize)]
struct Seen {
    model: String,
    version: String,
    classes: Vec<Class>,
}

/// One class of the model.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Class {
    class: usize,
    probability: f64,
    logit: f32,
}

/// What has to be known of a model before it can be asked.
#[derive(Debug, Deserialize)]
struct Model {
    inputs: Vec<Input>,
    parameters: Normalisation,
}

#[derive(Debug, Deserialize)]
struct Input {
    name: String,
    shape: Vec<i64>,
}

#[derive(Debug, Deserialize)]
struct Normalisation {
    mean: Vec<f32>,
    std: Vec<f32>,
}

/// The answer as text.
pub fn answer(arguments: &Arguments) -> Result<String, CliError> {
    let seen = ask(arguments)?;
    Ok(match arguments.output {
        Format::Json => serde_json::to_string_pretty(&seen).expect("an answer is plain data"),
        Format::Table => as_table(&seen),
    })
}

fn ask(arguments: &Arguments) -> Result<Seen, CliError> {
    // First, for what is no picture is none whoever runs.
    let picture = open(&arguments.image)?;
    let address = match &arguments.address {
        Some(address) => address.clone(),
        None => find(&config::load(&arguments.config)?)?,
    };
    let api = Api::new(&address);
    Ok(see(&api, &picture, arguments.top as usize)?)
}

/// Where the agent of this configuration listens: where it has written so, or else, on a disk that takes no writes, where it was told
/// to.
fn find(config: &Config) -> Result<String, CliError> {
    let path = config.state_dir.clone();
    if let Some(address) = super::serving_address(&StateDir::existing(&path))? {
        return Ok(address.to_string());
    }
    let found = running::find(&config.device_id, None, &config.serve);
    match found.and_then(|found| found.address) {
        Some(address) => Ok(address.to_string()),
        None if running::holds(&path) => Err(InferError::Nowhere { path }.into()),
        None => Err(InferError::NotRunning { path }.into()),
    }
}

fn see(api: &Api, picture: &DynamicImage, top: usize) -> Result<Seen, InferError> {
    let silent = |what| InferError::Answer { address: api.address().to_owned(), what };
    let index = api.post("/v2/repository/index", &json!({}))?;
    if index.as_array().is_some_and(Vec::is_empty) {
        return Err(InferError::NoModel { address: api.address().to_owned() });
    }
    let name = index[0]["name"].as_str().ok_or_else(|| silent("what it serves"))?;
    let path = format!("/v2/models/{name}");
    let model: Model =
        serde_json::from_value(api.get(&path)?).map_err(|_| silent("how to normalise an image"))?;
    let [Input { name: input, shape }] = model.inputs.as_slice() else {
        return Err(silent("that it takes one input"));
    };
    let [_, c, h, w] = shape.as_slice() else { return Err(silent("that it takes images")) };
    let sides = [c, h, w].map(|&side| usize::try_from(side).unwrap_or(0));
    let numbers = planes(picture, sides, &model.parameters)?;
    let tensor = json!({ "name": input, "shape": [1, c, h, w], "datatype": "FP32", "data": numbers });
    let answer = api.post_within(INFERENCE, &format!("{path}/infer"), &json!({ "inputs": [tensor] }))?;
    let logits: Vec<f32> =
        serde_json::from_value(answer["outputs"][0]["data"].clone()).map_err(|_| silent("what it sees"))?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(Seen {
        model: text(&answer["model_name"]),
        version: text(&answer["model_version"]),
        classes: likeliest(&logits, top),
    })
}

/// The picture in a file.
fn open(path: &Path) -> Result<DynamicImage, InferError> {
    let bytes = read(path).map_err(FileError::of("read", path))?;
    let refuse = |source| InferError::Image { path: path.to_owned(), source };
    let mut reader =
        ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|error| refuse(error.into()))?;
    let mut limits = Limits::default();
    limits.max_alloc = Some(MOST_BYTES);
    reader.limits(limits);
    reader.decode().map_err(refuse)
}

/// The picture in the model's size and normalisation: channels, rows, columns.
fn planes(
    picture: &DynamicImage,
    [c, h, w]: [usize; 3],
    norm: &Normalisation,
) -> Result<Vec<f32>, InferError> {
    let fits = (picture.height() as usize, picture.width() as usize) == (h, w);
    // Sides are those that a model of 32-bit numbers within a request can have.
    let resized = (!fits).then(|| picture.resize_exact(w as u32, h as u32, FilterType::Triangle));
    let picture = resized.as_ref().unwrap_or(picture);
    let pixels = match c {
        1 => picture.to_luma8().into_raw(),
        3 => picture.to_rgb8().into_raw(),
        channels => return Err(InferError::Channels { channels }),
    };
    let channel = |index: usize| {
        let (mean, std) = (norm.mean.get(index).unwrap_or(&0.0), norm.std.get(index).unwrap_or(&1.0));
        pixels.iter().skip(index).step_by(c).map(move |&pixel| (f32::from(pixel) / 255.0 - mean) / std)
    };
    Ok((0..c).flat_map(channel).collect())
}

/// An image may come through a pipe.
fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MOST_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST_BYTES {
        let problem = format!("no image has more than {}", ByteSize(MOST_BYTES));
        return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, problem));
    }
    Ok(bytes)
}

/// The classes with the largest logits, and their softmax.
fn likeliest(logits: &[f32], top: usize) -> Vec<Class> {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f64> = logits.iter().map(|&logit| f64::from(logit - most).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let classes = logits.iter().zip(&weights).enumerate();
    let mut classes: Vec<Class> =
        classes.map(|(class, (&logit, weight))| Class { class, probability: weight / sum, logit }).collect();
    classes.sort_by(|a, b| b.logit.total_cmp(&a.logit));
    classes.truncate(top);
    classes
}

fn as_table(seen: &Seen) -> String {
    let mut table = table();
    table.add_row(["CLASS", "PROBABILITY", "LOGIT"]);
    for Class { class, probability, logit } in &seen.classes {
        table.add_row([class.to_string(), Percent(*probability).to_string(), format!("{logit:.3}")]);
    }
    format!("{}, version {}\n{}", seen.model, seen.version, table.trim_fmt())
}

struct Percent(f64);

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} %", 100.0 * self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likeliest_classes_come_first_and_all_would_add_up_to_one() {
        let logits = [1.0, 3.0, -200.0, 2.0];
        let top = likeliest(&logits, 2);
        assert_eq!(top.iter().map(|class| class.class).collect::<Vec<_>>(), [1, 3]);
        assert!((top[0].probability / top[1].probability - 1f64.exp()).abs() < 1e-9);
        let all = likeliest(&logits, 10);
        assert!((all.iter().map(|class| class.probability).sum::<f64>() - 1.0).abs() < 1e-12);
    }

    #[test]
    fn a_picture_becomes_planes_in_the_models_size() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("red.png");
        image::RgbImage::from_pixel(4, 2, image::Rgb([255, 0, 51])).save(&path).unwrap();
        let norm = Normalisation { mean: vec![0.5, 0.0, 0.2], std: vec![0.5, 1.0, 0.1] };
        let picture = open(&path).unwrap();
        let seen = planes(&picture, [3, 3, 2], &norm).unwrap();
        let expected = [vec![1.0; 6], vec![0.0; 6], vec![0.0; 6]].concat();
        assert!(seen.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-5), "{seen:?}");
        assert!(matches!(planes(&picture, [2, 1, 1], &norm), Err(InferError::Channels { channels: 2 })));
        std::fs::write(&path, "no picture").unwrap();
        assert!(matches!(open(&path), Err(InferError::Image { .. })));
    }
}
