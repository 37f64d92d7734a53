//! The results: what they are, and how they are shown.

use std::fmt::{self, Write as _};
use std::path::Path;

use serde_json::json;

use super::past::OutOfOrder;
use super::process::Result;
use super::rebuild::Rebuilt;

/// CPU seconds, absolute or for 1,000 events.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cpu {
    pub service: f64,
    /// `None` for a server that runs elsewhere.
    pub mongod: Option<f64>,
    pub broker: Option<f64>,
}

/// What one load came to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Measured {
    pub events_per_second: f64,
    pub peak_rss_mib: f64,
    /// For 1,000 events.
    pub cpu: Cpu,
    /// Events in a transaction, on average.
    pub batch: f64,
}

impl Measured {
    /// The one of the middle rate.
    pub(crate) fn median(mut rounds: Vec<Self>) -> Self {
        rounds.sort_by(|a, b| a.events_per_second.total_cmp(&b.events_per_second));
        rounds[rounds.len() / 2]
    }
}

/// All results.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub end_to_end: Vec<(usize, Measured)>,
    pub mixed: Option<Measured>,
    pub store_floor: f64,
    pub rebuilt: Rebuilt,
    pub bus_floor: f64,
    pub out_of_order: Vec<OutOfOrder>,
}

impl Cpu {
    /// CPU seconds used so far by the service and, where the environment names
    /// their processes, the servers.
    pub(crate) fn now(service: u32) -> Self {
        let server = |name: &str| cpu_seconds(std::env::var(name).ok()?.parse().ok()?);
        Self {
            service: cpu_seconds(service).unwrap_or_default(),
            mongod: server("CC_DEV_MONGOD_PID"),
            broker: server("CC_DEV_RABBIT_PID"),
        }
    }

    /// What was used since, for 1,000 events.
    pub(crate) fn since(&self, before: &Self, events: usize) -> Self {
        let per_thousand = |now: f64, then: f64| (now - then) * 1000.0 / events as f64;
        let server = |now: Option<f64>, then: Option<f64>| Some(per_thousand(now?, then?));
        Self {
            service: per_thousand(self.service, before.service),
            mongod: server(self.mongod, before.mongod),
            broker: server(self.broker, before.broker),
        }
    }
}

/// User and system time of a process, from `/proc/PID/stat` in ticks of 10 ms.
fn cpu_seconds(pid: u32) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything.
    let fields: Vec<_> = stat.rsplit(')').next()?.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
    Some(ticks / 100.0)
}

impl fmt::Display for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cpu = |seconds: Option<f64>| seconds.map_or("?".to_owned(), |s| format!("{s:.3}"));
        write!(
            f,
            "CPU s per 1,000: client {:.3}, mongod {}, broker {}",
            self.service,
            cpu(self.mongod),
            cpu(self.broker),
        )
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:>10.0} events/s  {}  {:>6.1} MiB peak",
            self.events_per_second, self.cpu, self.peak_rss_mib,
        )
    }
}

impl Report {
    /// Events in a transaction of messages alone, on average over all sizes.
    pub(crate) fn mean_batch(&self) -> usize {
        let sum: f64 = self.end_to_end.iter().map(|(_, m)| m.batch).sum();
        (sum / self.end_to_end.len().max(1) as f64).round().max(1.0) as usize
    }

    /// Prints the summary; writes `target/bench/ingest.json` and the plot.
    pub(crate) fn write(&self) -> Result<()> {
        let rates = self.end_to_end.iter().map(|(_, m)| m.events_per_second);
        let (slowest, fastest) = rates.fold((f64::MAX, 0.0_f64), |(low, high), rate| {
            (low.min(rate), high.max(rate))
        });
        let floor = self.store_floor.min(self.bus_floor);
        println!(
            "{:<28} {:>10.2} (slowest / fastest dialog size)",
            "flatness",
            slowest / fastest
        );
        println!(
            "{:<28} {:>10.2} (slowest / lower floor)",
            "of the floor",
            slowest / floor
        );

        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench");
        std::fs::create_dir_all(&directory)?;
        std::fs::write(
            directory.join("ingest.json"),
            format!("{:#}\n", self.json()),
        )?;
        std::fs::write(directory.join("ingest.svg"), self.svg()?)?;
        println!("written: target/bench/ingest.json, target/bench/ingest.svg");
        Ok(())
    }

    fn all(&self) -> impl Iterator<Item = &Measured> {
        let sizes = self.end_to_end.iter().map(|(_, measured)| measured);
        sizes.chain(&self.mixed)
    }

    fn json(&self) -> serde_json::Value {
        let peak = self.all().map(|m| m.peak_rss_mib).fold(0.0, f64::max);
        let runs = self.all().count().max(1) as f64;
        let mean = |cpu: fn(&Cpu) -> Option<f64>| {
            let sum: Option<f64> = self.all().map(|m| cpu(&m.cpu)).sum();
            sum.map(|sum| sum / runs)
        };
        let end_to_end = self.end_to_end.iter().map(|(members, m)| {
            json!({
                "members": members,
                "events_per_second": m.events_per_second,
                "peak_rss_mib": m.peak_rss_mib,
                "cpu_seconds_per_1000_events": cpu_json(&m.cpu),
            })
        });
        json!({
            "end_to_end": end_to_end.collect::<Vec<_>>(),
            "mixed": self.mixed.map(|m| json!({
                "events_per_second": m.events_per_second,
                "peak_rss_mib": m.peak_rss_mib,
                "cpu_seconds_per_1000_events": cpu_json(&m.cpu),
            })),
            "floors": {
                "store_events_per_second": self.store_floor,
                "bus_events_per_second": self.bus_floor,
            },
            "out_of_order": self.out_of_order.iter().map(|kind| json!({
                "what": kind.what,
                "events_per_second": kind.events_per_second,
                "longest_wait_ms": kind.longest_wait_ms,
            })).collect::<Vec<_>>(),
            "rebuild_events_per_second": self.rebuilt.events_per_second,
            "verify_messages_per_second": self.rebuilt.verified_per_second,
            "peak_rss_mib": peak,
            "cpu_seconds_per_1000_events": {
                "service": mean(|cpu| Some(cpu.service)),
                "mongod": mean(|cpu| cpu.mongod),
                "broker": mean(|cpu| cpu.broker),
            },
        })
    }

    /// Throughput against dialog size, the sizes at even distances.
    fn svg(&self) -> std::result::Result<String, fmt::Error> {
        let (width, height, left, bottom, top) = (720.0, 400.0, 80.0, 340.0, 40.0);
        let rates = self.end_to_end.iter().map(|(_, m)| m.events_per_second);
        let highest = rates.fold(self.store_floor.max(self.bus_floor), f64::max) * 1.1;
        let step = (width - left - 40.0) / self.end_to_end.len().max(2) as f64;
        let x = |index: usize| left + step * (index as f64 + 0.5);
        let y = |rate: f64| bottom - (bottom - top) * rate / highest;
        let mut svg = format!(
            r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="13">
<rect width="{width}" height="{height}" fill="#fff"/>
<text x="{left}" y="24" font-size="15">Events per second, end to end, by members of a dialog</text>
<path d="M{left} {top} V{bottom} H{}" fill="none" stroke="#333"/>
"##,
            width - 40.0
        );
        for (name, floor) in [
            ("store floor", self.store_floor),
            ("bus floor", self.bus_floor),
        ] {
            let at = y(floor);
            writeln!(
                svg,
                r##"<path d="M{left} {at:.1} H{}" stroke="#999" stroke-dasharray="6 4"/><text x="{}" y="{:.1}" text-anchor="end" fill="#666">{name} {floor:.0}</text>"##,
                width - 40.0,
                width - 40.0,
                at - 5.0
            )?;
        }
        let points = self.end_to_end.iter().enumerate();
        let points = points.map(|(i, (_, m))| format!("{:.1},{:.1}", x(i), y(m.events_per_second)));
        let points: Vec<_> = points.collect();
        writeln!(
            svg,
            r##"<polyline points="{}" fill="none" stroke="#0a6" stroke-width="2"/>"##,
            points.join(" ")
        )?;
        for (index, (members, m)) in self.end_to_end.iter().enumerate() {
            let (x, y) = (x(index), y(m.events_per_second));
            writeln!(
                svg,
                r##"<circle cx="{x:.1}" cy="{y:.1}" r="4" fill="#0a6"/><text x="{x:.1}" y="{:.1}" text-anchor="middle">{:.0}</text><text x="{x:.1}" y="{}" text-anchor="middle">{members}</text>"##,
                y - 10.0,
                m.events_per_second,
                bottom + 20.0
            )?;
        }
        writeln!(
            svg,
            r##"<text x="{left}" y="{y}" text-anchor="end" dx="-8">0</text><text x="{left}" y="{top}" text-anchor="end" dx="-8">{highest:.0}</text>"##,
            y = bottom
        )?;
        svg.push_str("</svg>\n");
        Ok(svg)
    }
}

fn cpu_json(cpu: &Cpu) -> serde_json::Value {
    json!({ "service": cpu.service, "mongod": cpu.mongod, "broker": cpu.broker })
}
