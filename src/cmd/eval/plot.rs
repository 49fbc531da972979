//! An SVG plot of success rate against forward passes, one line per policy.

use super::statistics::Share;
use anyhow::{Context, bail};
use plotters::prelude::{
    ChartBuilder, Circle, ErrorBar, IntoDrawingArea, IntoFont, LineSeries, Palette, Palette99, PathElement, SVGBackend,
    WHITE,
};
use plotters::style::Color;
use std::fs::{self, OpenOptions};
use std::path::Path;

/// Checks that a file's name ends with .svg and that it can be written, before a measurement that
/// may take hours. Nothing is changed.
pub(super) fn check_file(file: &Path) -> anyhow::Result<()> {
    if file.extension().is_none_or(|extension| extension != "svg") {
        bail!("cannot draw into {}; give a name that ends with .svg", file.display());
    }
    let is_new = !file.exists();
    let opened = OpenOptions::new().append(true).create(true).open(file).map(drop);
    let checked = opened.and_then(|()| if is_new { fs::remove_file(file) } else { Ok(()) });
    checked.with_context(|| format!("cannot write {}", file.display()))
}

/// Draws named lines into an SVG file. A point is a mean of forward passes and a
/// success rate; `success` says of what.
pub(super) fn draw(file: &Path, title: &str, success: &str, lines: &[(&str, Vec<(f64, Share)>)]) -> anyhow::Result<()> {
    let passes = lines.iter().flat_map(|(_, points)| points).map(|(passes, _)| *passes);
    let most = passes.fold(1.0, f64::max) * 1.05;
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, (760, 480)).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(title, ("sans-serif", 16).into_font())
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(52)
            .build_cartesian_2d(0.0..most, 0.0..1.0)?;
        let percent = |share: &f64| format!("{:.0} %", 100.0 * share);
        chart.configure_mesh().x_desc("forward passes (mean)").y_desc(success).y_label_formatter(&percent).draw()?;
        for (index, (name, points)) in lines.iter().enumerate() {
            let colour = Palette99::pick(index);
            let swatch = colour.stroke_width(2);
            let middles = || points.iter().map(|(passes, solved)| (*passes, solved.share));
            let drawn = chart.draw_series(LineSeries::new(middles(), swatch))?.label(*name);
            drawn.legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], swatch));
            let bar = |(passes, solved): &(f64, Share)| {
                ErrorBar::new_vertical(*passes, solved.from, solved.share, solved.until, colour.filled(), 6)
            };
            chart.draw_series(points.iter().map(bar))?;
            chart.draw_series(middles().map(|middle| Circle::new(middle, 3, colour.filled())))?;
        }
        chart.configure_series_labels().background_style(WHITE.mix(0.8)).border_style(WHITE).draw()?;
        area.present()?;
    }
    std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}
