//! A report as a bar chart: a row per layer, what it had in grey, what it keeps in colour, its sensitivity beside it.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{LayerReport, Report};

const ROW: u32 = 18;
const NAMES: u32 = 190;
const WIDTHS: u32 = 430;
const SENSITIVITIES: u32 = 230;
const HEAD: u32 = 44;
const FOOT: u32 = 46;

/// Colours that people who see red and green alike can tell apart.
const KEPT: RGBColor = RGBColor(0, 114, 178);
const SENSITIVE: RGBColor = RGBColor(213, 94, 0);
const DENSE: RGBColor = RGBColor(205, 205, 205);

/// The picture could not be drawn.
#[derive(Debug, thiserror::Error)]
#[error("the picture cannot be drawn: {0}")]
pub struct PictureError(String);

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

pub(super) fn draw(report: &Report) -> Result<String, PictureError> {
    let mut svg = String::new();
    let height = HEAD + FOOT + ROW * report.layers.len() as u32;
    let drawn = {
        let root =
            SVGBackend::with_string(&mut svg, (NAMES + WIDTHS + SENSITIVITIES, height)).into_drawing_area();
        draw_on(&root, report).and_then(|()| root.present().map_err(problem))
    };
    drawn.map(|()| svg)
}

fn problem(error: impl std::fmt::Display) -> PictureError {
    PictureError(error.to_string())
}

fn draw_on(root: &Area<'_>, report: &Report) -> Result<(), PictureError> {
    root.fill(&WHITE).map_err(problem)?;
    let (dense, pruned) = (&report.dense, &report.pruned);
    let title =
        format!("{} of {} parameters, {} of {} MACs", pruned.params, dense.params, pruned.macs, dense.macs);
    let style = ("sans-serif", 15).into_font().color(&BLACK);
    root.draw_text(&title, &style, (12, 12)).map_err(problem)?;
    let (widths, sensitivities) = root.margin(HEAD, 0, 0, 0).split_horizontally(NAMES + WIDTHS);
    let widest = report.layers.iter().map(|layer| layer.width.before).max().unwrap_or(1);
    bars(
        &widths,
        report,
        Scale { left: NAMES, most: widest as f64, title: "channels: kept of all" },
        |layer| [(layer.width.before as f64, DENSE), (layer.width.after as f64, KEPT)],
    )?;
    bars(&sensitivities, report, Scale { left: 10, most: 1.0, title: "sensitivity" }, |layer| {
        [(layer.sensitivity, SENSITIVE), (0.0, SENSITIVE)]
    })?;
    names(root, report)
}

/// What a chart's bars are measured by.
struct Scale {
    left: u32,
    most: f64,
    title: &'static str,
}

fn bars(
    area: &Area<'_>,
    report: &Report,
    scale: Scale,
    of: impl Fn(&LayerReport) -> [(f64, RGBColor); 2],
) -> Result<(), PictureError> {
    let rows = report.layers.len() as f64;
    // The first layer on top: the axis runs downwards.
    let mut chart = ChartBuilder::on(area)
        .margin_right(24)
        .x_label_area_size(FOOT)
        .y_label_area_size(scale.left)
        .build_cartesian_2d(0.0..scale.most * 1.02, rows..0.0)
        .map_err(problem)?;
    let mut mesh = chart.configure_mesh();
    mesh.disable_y_mesh().y_labels(0).x_labels(6).x_max_light_lines(0).x_desc(scale.title);
    mesh.x_label_formatter(&|value| value.to_string()).draw().map_err(problem)?;
    for (index, layer) in report.layers.iter().enumerate() {
        let top = index as f64;
        let bar = |(length, colour): (f64, RGBColor)| {
            Rectangle::new([(0.0, top + 0.18), (length, top + 0.82)], colour.filled())
        };
        chart.draw_series(of(layer).map(bar)).map_err(problem)?;
    }
    Ok(())
}

fn names(root: &Area<'_>, report: &Report) -> Result<(), PictureError> {
    let style = ("sans-serif", 12).into_font().color(&BLACK).pos(Pos::new(HPos::Right, VPos::Center));
    for (index, layer) in report.layers.iter().enumerate() {
        let middle = (HEAD + ROW * index as u32 + ROW / 2) as i32;
        let widths = format!("{}  {}/{}", layer.name, layer.width.after, layer.width.before);
        root.draw_text(&widths, &style, (NAMES as i32 - 6, middle)).map_err(problem)?;
    }
    Ok(())
}
