//! Reports as text.

use std::fmt::Write;

use super::run::Report;

impl Report {
    /// The table that a person reads.
    pub fn table(&self) -> String {
        let mut text = format!(
            "{} nodes, {} GPUs, {} pods of {} shapes\n\n",
            self.nodes, self.gpus, self.pods, self.shapes
        );
        let seeds = self.rows.first().map_or(0, |row| row.outcomes.len());
        let end = format!("at {}%", self.end);
        let _ = writeln!(
            text,
            "GPU allocated, % (mean of {seeds} seeds), and pods admitted in all"
        );
        let _ = writeln!(
            text,
            "{:<18} {:>8} {:>8} {:>8} {:>8} {:>9} {:>8} {:>8} {:>7} {:>12}",
            "policy",
            "at 100%",
            end,
            "full at",
            "CPU",
            "fraction",
            "one",
            "many",
            "moved",
            "decisions/s"
        );
        for row in &self.rows {
            let admitted = row.admitted(1);
            let _ = writeln!(
                text,
                "{:<18} {:>8} {:>8} {:>8.2} {:>8.1} {:>9.1} {:>8.1} {:>8.1} {:>6.2}% {:>12}",
                row.name,
                percent(row.at(100)),
                percent(row.at(self.end)),
                row.refused_at(),
                admitted[0],
                admitted[1],
                admitted[2],
                admitted[3],
                row.moved(),
                row.seconds.map_or("-".to_owned(), |seconds| {
                    format!("{:.0}", row.decisions() as f64 / seconds.max(1e-9))
                }),
            );
        }
        for (name, bound) in [
            ("bound, refusing", self.bound),
            ("bound, admitting", self.bound_admitting),
        ] {
            if let Some([full, end]) = bound {
                let _ = writeln!(text, "{name:<18} {full:>8.2} {end:>8.2}");
            }
        }
        let came = self.came[1];
        let _ = writeln!(
            text,
            "{:<18} {:>8} {:>8} {:>8} {:>8.1} {:>9.1} {:>8.1} {:>8.1}",
            "pods that came", "", "", "", came[0], came[1], came[2], came[3]
        );
        text.push_str(
            "\nfull at: percent asked for when the first pod of at most one GPU was refused\n",
        );
        if self.bound.is_some() {
            text.push_str(
                "bounds: no policy allocates more. Refusing: even one that refuses whom it likes.\n\
                 Admitting: one that takes all pods of at most one GPU which came before the last\n\
                 policy without moves was full, on whatever nodes and however often moved\n",
            );
        }
        if !self.motion.is_empty() {
            text.push('\n');
            self.motion_table(&mut text);
        }
        text
    }

    fn motion_table(&self, text: &mut String) {
        let _ = writeln!(text, "Arrivals and departures: waits in minutes");
        let _ = writeln!(
            text,
            "{:<20} {:>8} {:>9} {:>9} {:>9} {:>9} {:>8} {:>9} {:>8} {:>8} {:>8} {:>12}",
            "policy",
            "used %",
            "mean wait",
            "p99 wait",
            "p99.9",
            "fairness",
            "CPU",
            "fraction",
            "one",
            "many",
            "waiting",
            "decisions/s"
        );
        for row in &self.motion {
            let motion = &row.motion;
            let classes = motion.classes.map(|class| class.mean);
            let _ = writeln!(
                text,
                "{:<20} {:>8.2} {:>9.2} {:>9.1} {:>9.1} {:>9.4} {:>8.2} {:>9.2} {:>8.2} {:>8.1} {:>8} {:>12}",
                row.name,
                motion.utilisation,
                motion.mean_wait,
                motion.p99_wait,
                motion.p999_wait,
                motion.fairness,
                classes[0],
                classes[1],
                classes[2],
                classes[3],
                motion.waiting,
                row.seconds.map_or("-".to_owned(), |seconds| {
                    format!("{:.0}", motion.decisions as f64 / seconds.max(1e-9))
                }),
            );
        }
    }

    /// Every point of every replay, as CSV.
    pub fn csv(&self) -> String {
        let mut writer = csv::Writer::from_writer(Vec::new());
        let mut row = |cells: [String; 4]| {
            writer
                .write_record(cells)
                .expect("writing to memory does not fail");
        };
        row(["policy", "replay", "arrived_percent", "allocated_percent"].map(str::to_owned));
        for policy in &self.rows {
            for (number, outcome) in policy.outcomes.iter().enumerate() {
                for point in &outcome.curve {
                    row([
                        policy.name.clone(),
                        number.to_string(),
                        format!("{:.0}", point.arrived),
                        format!("{:.4}", point.allocated),
                    ]);
                }
            }
        }
        let bytes = writer
            .into_inner()
            .expect("writing to memory does not fail");
        String::from_utf8(bytes).expect("only text was written")
    }
}

fn percent(value: Option<f64>) -> String {
    value.map_or("-".to_owned(), |value| format!("{value:.2}"))
}
