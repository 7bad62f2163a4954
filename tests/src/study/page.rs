//! The page, from the findings alone: every number in it is one of theirs.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::arm::{Effort, Method, RATIO};
use super::plot;
use super::results::{Results, Timed, Trained};

/// Arms that differ in the seed alone.
pub(super) struct Row<'a> {
    pub(super) ratio: f64,
    pub(super) method: &'a Method,
    pub(super) seeds: Vec<&'a Trained>,
    pub(super) times: Vec<&'a Timed>,
}

/// All rows of one network, trained for as long.
pub(super) struct Section<'a> {
    pub(super) network: &'a str,
    pub(super) effort: Effort,
    pub(super) rows: Vec<Row<'a>>,
}

impl Row<'_> {
    /// Of the test images, percent.
    pub(super) fn accuracy(&self) -> f64 {
        100.0 * mean(self.seeds.iter().map(|trained| trained.accuracy))
    }

    pub(super) fn params(&self) -> f64 {
        mean(self.seeds.iter().map(|trained| trained.params as f64))
    }

    /// Median of one image in rten, milliseconds.
    pub(super) fn rten_ms(&self) -> Option<f64> {
        some_mean(self.times.iter().map(|timed| Some(timed.rten_ms)))
    }
}

/// Writes the page and its pictures.
pub(super) fn write(results: &Results, page: &Path) -> Result<()> {
    let sections = sections(results);
    let folder = page.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let mut text = String::from(HEAD);
    for section in &sections {
        let Effort { images, epochs, batch } = section.effort;
        let name = format!("study-{}-{images}x{epochs}-batch{batch}", section.network);
        text += &section_text(section, &name);
        for (ending, svg) in [("size", plot::by_size(section)?), ("latency", plot::by_latency(section)?)] {
            let file = folder.join(format!("{name}-{ending}.svg"));
            fs::write(&file, svg).with_context(|| format!("writing {}", file.display()))?;
        }
    }
    text += &provenance(results);
    fs::write(page, text).with_context(|| format!("writing {}", page.display()))
}

const HEAD: &str = "\
# Pruned at initialisation: accuracy, size, latency

Written by `cargo run --release -p fleet-tests --bin study`; every number below stands in `study.jsonl` beside this page.

Fashion-MNIST, its images framed in black to 32x32 (VGG's five poolings need that). All arms of a table see the same
training images for as many epochs: SGD with momentum 0.9 (Nesterov), one cycle up to 0.1, weight decay 5e-4, mirrored at
random and moved by up to 2 pixels. Accuracy is of all 10,000 test images after the last epoch; none was looked at before. With
several seeds: the mean, and half of the distance between the best and the worst behind ±.

*Unstructured* masks single weights by synaptic flow before training (UPaI): its zeros take room and time in any dense
engine, so it is the bar for accuracy alone. *Structured* is what the product does. Latency: one image, one thread, median
of the quietest of seven sweeps, in rten (the agents' engine) and in onnxruntime, in brackets how many times the dense network's.
Pruning and training: processor seconds of all threads together.
";

fn sections(results: &Results) -> Vec<Section<'_>> {
    let mut sections: Vec<Section<'_>> = Vec::new();
    for trained in results.trained() {
        let (arm, effort) = (&trained.arm, trained.arm.effort());
        let (network, ratio, method) = (&arm.network, &arm.ratio, &arm.method);
        let same = |s: &Section<'_>| s.network == network && s.effort == effort;
        let at = sections.iter().position(same).unwrap_or_else(|| {
            sections.push(Section { network, effort, rows: Vec::new() });
            sections.len() - 1
        });
        let rows = &mut sections[at].rows;
        let at =
            rows.iter().position(|row| row.ratio == *ratio && row.method == method).unwrap_or_else(|| {
                rows.push(Row { ratio: *ratio, method, seeds: Vec::new(), times: Vec::new() });
                rows.len() - 1
            });
        rows[at].seeds.push(trained);
        rows[at].times.extend(results.timed(&trained.arm));
    }
    for section in &mut sections {
        section.rows.sort_by(|a, b| a.ratio.total_cmp(&b.ratio).then(b.accuracy().total_cmp(&a.accuracy())));
    }
    sections
}

fn section_text(section: &Section<'_>, picture: &str) -> String {
    let Section { network, effort, rows } = section;
    let mut text = format!("\n## {network}, {effort}\n\n");
    text += &headline(section);
    text += "| parameters / | arm | seeds | accuracy | parameters | MACs | ONNX | rten | onnxruntime | prune | train |\n\
             |---|---|---|---|---|---|---|---|---|---|---|\n";
    for row in rows {
        let of = |figure: fn(&Trained) -> f64| mean(row.seeds.iter().map(|&trained| figure(trained)));
        let time = |own: fn(&Timed) -> Option<f64>, dense: fn(&Timed) -> Option<f64>| {
            let (own, dense) = (
                some_mean(row.times.iter().map(|&t| own(t))),
                some_mean(row.times.iter().map(|&t| dense(t))),
            );
            own.zip(dense).map_or("-".to_owned(), |(own, dense)| format!("{own:.3} ms ({:.2}x)", own / dense))
        };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {:.0} | {:.2}M | {:.0} kB | {} | {} | {:.2} s | {:.0} s |",
            row.ratio,
            row.method.title(),
            row.seeds.len(),
            accuracy(row),
            of(|t| t.params as f64),
            of(|t| t.macs as f64 / 1e6),
            of(|t| t.onnx_bytes as f64 / 1e3),
            time(|t| Some(t.rten_ms), |t| Some(t.dense_rten_ms)),
            time(|t| t.onnxruntime_ms, |t| t.dense_onnxruntime_ms),
            of(|t| t.seconds_to_prune),
            of(|t| t.seconds_to_train),
        );
    }
    let _ = writeln!(
        text,
        "\n![accuracy over size]({picture}-size.svg)\n![accuracy over latency]({picture}-latency.svg)"
    );
    text
}

/// The paper's claim, a sentence for each of our arms that is there beside the unstructured one: without distillation, and with.
fn headline(section: &Section<'_>) -> String {
    let product = Method::product();
    let row = |method: &Method| section.rows.iter().find(|row| row.ratio == RATIO && row.method == method);
    let Some(upai) = row(&Method::Unstructured) else { return String::new() };
    let arms =
        [("The default", row(&product)), ("Distilled from the dense network", row(&Method::Distilled))];
    arms.into_iter().filter_map(|(name, ours)| Some(claim(name, ours?, upai))).collect()
}

fn claim(name: &str, ours: &Row<'_>, upai: &Row<'_>) -> String {
    let paired = ours.seeds.iter().filter_map(|own| {
        let other = upai.seeds.iter().find(|other| other.arm.seed == own.arm.seed)?;
        Some(100.0 * (own.accuracy - other.accuracy))
    });
    let paired: Vec<f64> = paired.collect();
    if paired.is_empty() {
        return String::new();
    }
    let smaller = mean(ours.seeds.iter().map(|t| t.dense_params as f64 / t.params as f64));
    let faster = some_mean(ours.times.iter().map(|t| Some(t.dense_rten_ms / t.rten_ms)));
    let faster = faster.map_or(String::new(), |faster| format!("{faster:.2} times as fast in rten, "));
    let difference = mean(paired.iter().copied());
    format!(
        "**{name}: {smaller:.2} times fewer parameters than dense, {faster}accuracy {difference:+.2} ± {:.2} points against \
         the unstructured mask of the same ratio ({} seed{}).**\n\n",
        half_range(&paired),
        paired.len(),
        if paired.len() == 1 { "" } else { "s" },
    )
}

fn accuracy(row: &Row<'_>) -> String {
    let percents: Vec<f64> = row.seeds.iter().map(|trained| 100.0 * trained.accuracy).collect();
    let spread = if percents.len() > 1 { format!(" ± {:.2}", half_range(&percents)) } else { String::new() };
    format!("{:.2} %{spread}", row.accuracy())
}

/// Which commands and machines gave the findings.
fn provenance(results: &Results) -> String {
    let mut text = String::from(
        "\n## Where the numbers come from\n\nCommands that name the default before any with exponent 0.25 meant \
         exponent 0.5, which was the default until then.\n\n",
    );
    let mut known: Vec<(&str, &str)> = Vec::new();
    for trained in results.trained() {
        let source = (trained.command.as_str(), trained.machine.as_str());
        if !known.contains(&source) {
            known.push(source);
            let _ = writeln!(text, "- `{}` on {}", source.0, source.1);
        }
    }
    text
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let values: Vec<f64> = values.collect();
    values.iter().sum::<f64>() / values.len() as f64
}

/// `None` where one is missing, or all are.
fn some_mean(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let values = values.collect::<Option<Vec<f64>>>()?;
    (!values.is_empty()).then(|| mean(values.into_iter()))
}

fn half_range(values: &[f64]) -> f64 {
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    (most - least) / 2.0
}
