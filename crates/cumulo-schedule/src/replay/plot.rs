//! Allocation against arrived demand, as SVG.

use std::fmt::Write;

use super::run::Report;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 440.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 150.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 48.0;

/// Told apart by people who see few colours (Okabe and Ito), ours the last and
/// strongest.
const COLOURS: [&str; 9] = [
    "#999999", "#a65628", "#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#0072b2", "#d55e00",
    "#000000",
];

/// A part of the plane, drawn to the edges of the plot.
struct View {
    x: (f64, f64),
    y: (f64, f64),
}

impl View {
    fn x(&self, value: f64) -> f64 {
        LEFT + (value - self.x.0) / (self.x.1 - self.x.0) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        let share = (value - self.y.0) / (self.y.1 - self.y.0);
        HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)
    }
}

impl Report {
    /// The whole curve, from the first pod.
    pub fn plot(&self) -> String {
        let view = View {
            x: (0.0, self.end as f64),
            y: (0.0, 100.0),
        };
        self.draw(&view, "GPU allocation against arrived demand", (20.0, 20.0))
    }

    /// The end of the curve, where the policies differ.
    pub fn plot_end(&self) -> String {
        let lowest = self.rows.iter().filter_map(|row| row.at(100));
        let lowest = lowest.fold(95.0_f64, f64::min);
        let view = View {
            x: (80.0, self.end as f64),
            y: ((lowest - 2.0).floor().max(0.0), 100.0),
        };
        self.draw(
            &view,
            "GPU allocation where the cluster is full",
            (5.0, 2.0),
        )
    }

    fn draw(&self, view: &View, title: &str, steps: (f64, f64)) -> String {
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             font-family=\"system-ui, sans-serif\" font-size=\"12\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
             <text x=\"{LEFT}\" y=\"22\" font-size=\"15\">{title}</text>\n"
        );
        axes(&mut svg, view, steps);
        for (_, dash, [full, end]) in self.bounds() {
            let points = [(100.0, full), (self.end as f64, end)];
            line(&mut svg, view, &points, "#666666", dash);
        }
        for (number, row) in self.rows.iter().enumerate() {
            let points: Vec<_> = row
                .curve()
                .iter()
                .map(|point| (point.arrived, point.allocated))
                .collect();
            line(&mut svg, view, &points, COLOURS[number % COLOURS.len()], "");
        }
        self.legend(&mut svg);
        svg.push_str("</svg>\n");
        svg
    }

    /// The bounds, each with its name and its dashes.
    fn bounds(&self) -> impl Iterator<Item = (&'static str, &'static str, [f64; 2])> {
        let refusing = ("bound, refusing", " stroke-dasharray=\"2 4\"", self.bound);
        let admitting = (
            "bound, admitting",
            " stroke-dasharray=\"6 3\"",
            self.bound_admitting,
        );
        let both = [admitting, refusing].into_iter();
        both.filter_map(|(name, dash, bound)| Some((name, dash, bound?)))
    }

    fn legend(&self, svg: &mut String) {
        let x = WIDTH - RIGHT + 12.0;
        let names = self.rows.iter().map(|row| row.name.as_str());
        let mut best: Vec<_> = names
            .zip(COLOURS.iter().cycle())
            .map(|(name, colour)| (name, *colour, ""))
            .collect();
        best.reverse();
        best.extend(self.bounds().map(|(name, dash, _)| (name, "#666666", dash)));
        for (at, (name, colour, dash)) in best.iter().enumerate() {
            let y = TOP + 10.0 + 18.0 * at as f64;
            let _ = writeln!(
                svg,
                "<line x1=\"{x}\" x2=\"{}\" y1=\"{y}\" y2=\"{y}\" stroke=\"{colour}\" \
                 stroke-width=\"2\"{dash}/><text x=\"{}\" y=\"{}\">{name}</text>",
                x + 18.0,
                x + 24.0,
                y + 4.0
            );
        }
    }
}

fn axes(svg: &mut String, view: &View, steps: (f64, f64)) {
    let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    let mut value = view.x.0;
    while value <= view.x.1 + 1e-9 {
        let x = view.x(value);
        let _ = writeln!(
            svg,
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{bottom}\" stroke=\"#eeeeee\"/>\
             <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{value:.0}</text>",
            bottom + 16.0
        );
        value += steps.0;
    }
    let mut value = (view.y.0 / steps.1).ceil() * steps.1;
    while value <= view.y.1 + 1e-9 {
        let y = view.y(value);
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#eeeeee\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{value:.0}</text>",
            LEFT - 6.0,
            y + 4.0
        );
        value += steps.1;
    }
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">GPUs that pods asked for, % of the cluster</text>\
         <text transform=\"translate(16 {:.1}) rotate(-90)\" text-anchor=\"middle\">GPUs allocated, %</text>",
        f64::midpoint(LEFT, right),
        HEIGHT - 10.0,
        f64::midpoint(TOP, bottom)
    );
}

fn line(svg: &mut String, view: &View, points: &[(f64, f64)], colour: &str, more: &str) {
    let inside = points
        .iter()
        .filter(|(x, y)| *x >= view.x.0 && *y >= view.y.0);
    let path: Vec<String> = inside
        .map(|(x, y)| format!("{:.1},{:.1}", view.x(*x), view.y(*y)))
        .collect();
    let _ = writeln!(
        svg,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.8\"{more}/>",
        path.join(" ")
    );
}
