//! A picture of the rows: accuracy over measured latency, each device's dense model joined to its fitted one.

use std::fmt::Write as _;

use super::row::Row;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 460.0;
const MARGIN: f64 = 64.0;
/// One colour for each device in turn, told apart by people who see red and green alike.
const COLOURS: [&str; 4] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7"];

/// A row's place: milliseconds at the 95th percentile, and percent of the test images.
#[derive(Debug, Clone, Copy)]
struct Point {
    p95_ms: f64,
    percent: f64,
}

/// The picture as SVG. Rows without a measurement have no place in it.
pub(super) fn latency_and_accuracy(rows: &[Row]) -> String {
    let points: Vec<(&Row, Point)> = rows.iter().filter_map(|row| Some((row, point(row)?))).collect();
    let scale = Scale::around(points.iter().map(|(_, point)| *point));
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    axes(&mut svg, &scale);
    let mut devices: Vec<&str> = rows.iter().map(|row| row.device.as_str()).collect();
    devices.dedup();
    for (index, (device, colour)) in devices.iter().zip(COLOURS.iter().cycle()).enumerate() {
        let own: Vec<_> = points.iter().filter(|(row, _)| row.device == *device).collect();
        if let [(_, dense), (_, fitted)] = own[..] {
            let ((x1, y1), (x2, y2)) = (scale.place(*dense), scale.place(*fitted));
            let _ = writeln!(
                svg,
                "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{colour}\" \
                 stroke-dasharray=\"4 4\"/>"
            );
        }
        for (row, point) in own {
            let place = scale.place(*point);
            dot(&mut svg, place, row.model, colour);
            name(&mut svg, place, row, (colour, index));
        }
    }
    svg.push_str("</svg>");
    svg
}

fn point(row: &Row) -> Option<Point> {
    Some(Point { p95_ms: row.measured_p95_ms?, percent: row.test_accuracy? * 100.0 })
}

/// A filled dot for a fitted model, an open one for a dense one.
fn dot(svg: &mut String, (x, y): (f64, f64), model: &str, colour: &str) {
    let fill = if model == "fitted" { colour } else { "white" };
    let _ = writeln!(
        svg,
        "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"6\" fill=\"{fill}\" stroke=\"{colour}\" stroke-width=\"2\"/>"
    );
}

/// Device and model beside a dot: below a fitted one; above a dense one, each device higher than the one before, since
/// devices that hold the same dense network have the same accuracy.
fn name(svg: &mut String, (x, y): (f64, f64), row: &Row, (colour, index): (&str, usize)) {
    let params = row.footprint.map_or(0, |footprint| footprint.params).div_ceil(1000);
    // Towards the middle, so that no text runs off the picture.
    let (anchor, dx) = if x > WIDTH * 0.6 { ("end", -10.0) } else { ("start", 10.0) };
    let dy = if row.model == "fitted" { 18.0 } else { -8.0 - 15.0 * index as f64 };
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\" fill=\"{colour}\">{} {} ({params}k)</text>",
        x + dx,
        y + dy,
        row.device,
        row.model
    );
}

fn axes(svg: &mut String, scale: &Scale) {
    let (left, right, top, bottom) = (MARGIN, WIDTH - MARGIN, MARGIN, HEIGHT - MARGIN);
    let _ = writeln!(
        svg,
        "<path d=\"M{left} {top}V{bottom}H{right}\" fill=\"none\" stroke=\"black\"/>\n\
         <text x=\"{}\" y=\"28\" text-anchor=\"middle\" font-size=\"16\">Accuracy over measured latency: \
         dense (open) and fitted (filled)</text>\n\
         <text x=\"{}\" y=\"{}\" text-anchor=\"middle\">p95 latency on the device, ms</text>\n\
         <text x=\"{left}\" y=\"{}\">test accuracy, %</text>",
        WIDTH / 2.0,
        WIDTH / 2.0,
        HEIGHT - 18.0,
        MARGIN - 12.0
    );
    for step in 0..=4 {
        let share = f64::from(step) / 4.0;
        let (x, y) = (left + share * (right - left), bottom - share * (bottom - top));
        let _ = writeln!(
            svg,
            "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{:.2}</text>\n\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{:.0}</text>",
            bottom + 18.0,
            share * scale.p95_ms,
            left - 8.0,
            y + 4.0,
            scale.low + share * (scale.high - scale.low)
        );
    }
}

/// What the picture's edges stand for: time from zero, accuracy from `low` to `high` percent.
struct Scale {
    p95_ms: f64,
    low: f64,
    high: f64,
}

impl Scale {
    fn around(points: impl Iterator<Item = Point>) -> Self {
        let none = Self { p95_ms: 0.0, low: 100.0, high: 0.0 };
        let tight = points.fold(none, |scale, point| Self {
            p95_ms: scale.p95_ms.max(point.p95_ms),
            low: scale.low.min(point.percent),
            high: scale.high.max(point.percent),
        });
        let low = (tight.low / 10.0).floor() * 10.0;
        let high = ((tight.high / 10.0).ceil() * 10.0).max(low + 10.0);
        Self { p95_ms: 4.0 * round_step(tight.p95_ms / 4.0), low, high }
    }

    fn place(&self, point: Point) -> (f64, f64) {
        let across = point.p95_ms / self.p95_ms;
        let up = (point.percent - self.low) / (self.high - self.low);
        (MARGIN + across * (WIDTH - 2.0 * MARGIN), HEIGHT - MARGIN - up * (HEIGHT - 2.0 * MARGIN))
    }
}

/// The least of 1, 2, 2.5, 5 and 10 times a power of ten that is larger than `least`.
fn round_step(least: f64) -> f64 {
    let power = 10f64.powf(least.max(0.01).log10().floor());
    [1.0, 2.0, 2.5, 5.0]
        .map(|step| step * power)
        .into_iter()
        .find(|&step| step > least)
        .unwrap_or(10.0 * power)
}

#[cfg(test)]
mod tests;
