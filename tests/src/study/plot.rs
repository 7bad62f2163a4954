//! The page's pictures: accuracy over parameters, and over latency.

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use super::arm::Method;
use super::page::{Row, Section};

const SIZE: (u32, u32) = (760, 460);
/// Told apart by people who see red and green alike.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 0, 0),
    RGBColor(213, 94, 0),
    RGBColor(0, 114, 178),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
];

pub(super) fn by_size(section: &Section<'_>) -> Result<String> {
    draw(section, "learnt numbers that are not zero", |row| Some(row.params()))
}

pub(super) fn by_latency(section: &Section<'_>) -> Result<String> {
    draw(section, "median of one image on one thread in rten, ms", |row| row.rten_ms())
}

/// Accuracy over a figure on a logarithmic axis, a line for each method through its ratios.
fn draw(section: &Section<'_>, axis: &str, figure: impl Fn(&Row<'_>) -> Option<f64>) -> Result<String> {
    let mut methods: Vec<&Method> = Vec::new();
    for row in &section.rows {
        if !methods.contains(&row.method) {
            methods.push(row.method);
        }
    }
    let points = |method: &Method| -> Vec<(f64, f64)> {
        let rows = section.rows.iter().filter(|row| row.method == method);
        rows.filter_map(|row| Some((figure(row)?, row.accuracy()))).collect()
    };
    let all: Vec<(f64, f64)> = methods.iter().flat_map(|method| points(method)).collect();
    let mut svg = String::new();
    if all.is_empty() {
        return Ok("<svg xmlns=\"http://www.w3.org/2000/svg\"/>".to_owned());
    }
    let range = |of: fn(&(f64, f64)) -> f64| {
        let values = || all.iter().map(of);
        (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max))
    };
    let ((left, right), (low, high)) = (range(|point| point.0), range(|point| point.1));
    let problem = |error: &dyn std::fmt::Display| anyhow!("the picture cannot be drawn: {error}");
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&WHITE).map_err(|e| problem(&e))?;
        let title = format!("{}, {}", section.network, section.effort);
        let mut chart = ChartBuilder::on(&root)
            .caption(title, ("sans-serif", 17))
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(52)
            .build_cartesian_2d((left * 0.8..right * 1.25).log_scale(), low - 0.5..high + 0.5)
            .map_err(|e| problem(&e))?;
        chart
            .configure_mesh()
            .x_desc(axis)
            .y_desc("accuracy, %")
            .light_line_style(WHITE)
            .draw()
            .map_err(|e| problem(&e))?;
        for (method, colour) in methods.iter().zip(COLOURS.iter().cycle()) {
            let mut points = points(method);
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            let dots = points.iter().map(|&place| Circle::new(place, 4, colour.filled()));
            chart.draw_series(dots).map_err(|e| problem(&e))?;
            chart
                .draw_series([PathElement::new(points, colour.stroke_width(2))])
                .map_err(|e| problem(&e))?
                .label(method.title())
                .legend(|(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(3)));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.2))
            .draw()
            .map_err(|e| problem(&e))?;
        root.present().map_err(|e| problem(&e))?;
    }
    Ok(svg)
}
