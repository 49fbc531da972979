//! The losses of a run beside its checkpoint: a table, and a picture of it.

use crate::train::{HeadForm, Means, Progress};
use anyhow::Context;
use plotters::prelude::{
    ChartBuilder, IntoDrawingArea, IntoFont, LineSeries, Palette, Palette99, PathElement, SVGBackend, WHITE,
};
use plotters::style::Color;
use std::fs;
use std::path::{Path, PathBuf};

/// The table of a run's losses.
const TABLE: &str = "losses.csv";
/// Its picture.
const PICTURE: &str = "losses.svg";

/// The columns of the table, before those of several heads.
const COLUMNS: &str = "step,loss,cross_entropy,accuracy,judgement,judged_right,quality,learning_rate,gradient_norm,\
                       tokens_per_s,seconds,held_out_cross_entropy,held_out_accuracy,held_out_judgement,\
                       held_out_judged_right,held_out_quality";

/// Losses of a run, also of earlier parts of it.
pub(super) struct Losses {
    dir: PathBuf,
    /// Heads that are compared, which have columns of their own.
    heads: Vec<HeadForm>,
    /// The lines of the table, without its header; each with its step.
    lines: Vec<(u32, String)>,
    /// Whether some were added: a run that is refused writes nothing.
    is_new: bool,
}

impl Losses {
    /// Of the run in the directory `dir`, in which these heads are compared, if any. Its table is
    /// continued if it has the same columns. Lines that are none are left out.
    pub(super) fn of(dir: &Path, heads: Vec<HeadForm>) -> Self {
        let mut losses = Self { dir: dir.to_owned(), heads, lines: Vec::new(), is_new: false };
        let text = fs::read_to_string(dir.join(TABLE)).unwrap_or_default();
        let line = |line: &str| Some((line.split(',').next()?.parse().ok()?, line.to_owned()));
        if text.lines().next() == Some(&losses.columns()) {
            losses.lines = text.lines().filter_map(line).collect();
        }
        losses
    }

    fn columns(&self) -> String {
        let of_head = |head: &HeadForm| {
            ["judgement", "quality", "held_out_judgement", "held_out_quality"].map(|name| format!(",{name}_{head}"))
        };
        COLUMNS.to_owned() + &self.heads.iter().flat_map(of_head).collect::<String>()
    }

    /// Adds a report. Those of its step and of later ones were of a part of the run that is
    /// repeated.
    pub(super) fn add(&mut self, progress: &Progress) {
        let Progress { step, loss, learning_rate, gradient_norm, tokens_per_s, seconds, .. } = *progress;
        let some = |number: Option<f64>| number.map(|number| number.to_string()).unwrap_or_default();
        let means = |means: &Means| {
            let Means { cross_entropy, accuracy, judgement, judged_right, quality, .. } = *means;
            [cross_entropy, accuracy, judgement, judged_right, quality].map(some).join(",")
        };
        let held_out = progress.held_out.clone().unwrap_or_default();
        let of_head = |head: &HeadForm| {
            let [now, held_out] = [&progress.means, &held_out].map(|means| {
                let own = means.heads.iter().find(|means| means.head == *head);
                own.map_or([None, None], |means| [means.judgement, means.quality]).map(some).join(",")
            });
            [now, held_out]
        };
        let numbers = [
            step.to_string(),
            loss.to_string(),
            means(&progress.means),
            learning_rate.to_string(),
            gradient_norm.to_string(),
            format!("{tokens_per_s:.0}"),
            format!("{seconds:.1}"),
            means(&held_out),
        ];
        let numbers: Vec<String> = numbers.into_iter().chain(self.heads.iter().flat_map(of_head)).collect();
        self.lines.retain(|(before, _)| *before < step);
        self.lines.push((step, numbers.join(",")));
        self.is_new = true;
    }

    /// Writes the table and its picture.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub(super) fn write(&self) -> anyhow::Result<()> {
        if !self.is_new {
            return Ok(());
        }
        let columns = self.columns();
        let table: Vec<&str> = std::iter::once(&*columns).chain(self.lines.iter().map(|(_, line)| &**line)).collect();
        for (name, text) in [(TABLE, table.join("\n") + "\n"), (PICTURE, self.picture()?)] {
            let file = self.dir.join(name);
            fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        }
        Ok(())
    }

    /// The numbers of a column by step, where it has some.
    fn column(&self, name: &str) -> Vec<(f64, f64)> {
        let Some(column) = self.columns().split(',').position(|column| column == name) else { return Vec::new() };
        let number = |(step, line): &(u32, String)| {
            let number: f64 = line.split(',').nth(column)?.parse().ok()?;
            number.is_finite().then_some((f64::from(*step), number))
        };
        self.lines.iter().filter_map(number).collect()
    }

    /// An SVG of the losses in nats.
    fn picture(&self) -> anyhow::Result<String> {
        let with_held_out = |words: String, column: String| {
            let held_out = format!("held_out_{column}");
            [(words, column), ("the same, held out".to_owned(), held_out)]
        };
        let mut named = with_held_out("cross-entropy of masked tokens".to_owned(), "cross_entropy".to_owned()).to_vec();
        if self.heads.is_empty() {
            named.extend(with_held_out("judgement of filled tokens".to_owned(), "judgement".to_owned()));
        }
        for head in &self.heads {
            named.extend(with_held_out(format!("judgement of {head}"), format!("judgement_{head}")));
        }
        let lines: Vec<(String, Vec<(f64, f64)>)> = named
            .into_iter()
            .map(|(words, name)| (words, self.column(&name)))
            .filter(|(_, line)| !line.is_empty())
            .collect();
        let points = || lines.iter().flat_map(|(_, line)| line);
        let last = points().map(|(step, _)| *step).fold(1.0, f64::max);
        let highest = points().map(|(_, loss)| *loss).fold(0.0, f64::max).max(1e-6) * 1.05;
        let mut text = String::new();
        {
            let area = SVGBackend::with_string(&mut text, (760, 480)).into_drawing_area();
            area.fill(&WHITE)?;
            let mut chart = ChartBuilder::on(&area)
                .caption("losses", ("sans-serif", 16).into_font())
                .margin(12)
                .x_label_area_size(36)
                .y_label_area_size(52)
                .build_cartesian_2d(0.0..last, 0.0..highest)?;
            chart.configure_mesh().x_desc("steps").y_desc("nats").draw()?;
            for (index, (name, line)) in lines.into_iter().enumerate() {
                let colour = Palette99::pick(index).stroke_width(2);
                let drawn = chart.draw_series(LineSeries::new(line, colour))?.label(name);
                drawn.legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour));
            }
            chart.configure_series_labels().background_style(WHITE.mix(0.8)).border_style(WHITE).draw()?;
            area.present()?;
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(step: u32, loss: f64) -> Progress {
        Progress {
            step,
            steps: 30,
            loss,
            means: Means { cross_entropy: Some(loss), accuracy: Some(0.5), ..Means::default() },
            held_out: (step == 20).then(|| Means { cross_entropy: Some(loss / 2.0), ..Means::default() }),
            learning_rate: 1e-3,
            gradient_norm: 1.0,
            tokens_per_s: 10.0,
            seconds: 1.0,
        }
    }

    #[test]
    fn a_run_that_goes_on_repeats_the_steps_since_its_checkpoint() {
        let dir = tempfile::tempdir().unwrap();
        let column = || Losses::of(dir.path(), Vec::new()).column("cross_entropy");
        let held_out = || Losses::of(dir.path(), Vec::new()).column("held_out_cross_entropy");
        let write = |reports: &[(u32, f64)]| {
            let mut losses = Losses::of(dir.path(), Vec::new());
            reports.iter().for_each(|(step, loss)| losses.add(&progress(*step, *loss)));
            losses.write().unwrap();
        };
        write(&[]);
        assert!(!dir.path().join(TABLE).exists(), "nothing was reported");
        write(&[(10, 3.0), (20, 2.0)]);
        write(&[(20, 1.5), (30, 1.0)]);
        assert_eq!(column(), [(10.0, 3.0), (20.0, 1.5), (30.0, 1.0)]);
        assert_eq!(held_out(), [(20.0, 0.75)]);
        write(&[(10, 4.0)]);
        assert_eq!(column(), [(10.0, 4.0)], "a run from the start");
    }
}
