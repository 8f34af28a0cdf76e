//! Options of `simulate`.

use std::path::PathBuf;

use clap::Args;

/// Options of `simulate`.
#[derive(Debug, Args)]
pub struct SimulateArgs {
    /// A folder, or the nodes' file and then pods' files.
    #[arg(long, value_name = "PATH", num_args = 1.., required = true)]
    pub trace: Vec<PathBuf>,
    /// Policies, with commas; all when none is named.
    #[arg(long, value_delimiter = ',', value_parser = clap::builder::PossibleValuesParser::new(cumulo_schedule::packing::Policy::ALL.map(cumulo_schedule::packing::Policy::name)))]
    pub policy: Vec<String>,
    /// Seeds: a range or a list, such as 42-51 or 1,2,3.
    #[arg(long, default_value = "42-51")]
    pub seeds: Seeds,
    /// Demand at the end, as a multiple of the cluster's GPUs.
    #[arg(long, value_name = "TIMES", default_value_t = 1.3)]
    pub inflate: f64,
    /// Replay `ours` again and let it move at most this many percent of the pods; 0 for no second replay.
    #[arg(long, value_name = "PERCENT", default_value_t = 1.0)]
    pub moved: f64,
    /// Do not compute the upper bounds.
    #[arg(long)]
    pub no_bound: bool,
    /// Simulate arrivals and departures too: utilisation, waits, fairness.
    #[arg(long)]
    pub motion: bool,
    /// With --motion: GPUs that the stream asks for, in percent of the cluster.
    #[arg(long, value_name = "PERCENT", default_value_t = 90.0)]
    pub load: f64,
    /// With --motion: how long to measure, once the cluster has run in for three lifetimes.
    #[arg(long, default_value_t = 168.0)]
    pub hours: f64,
    /// With --motion: mean lifetime of a pod, in hours.
    #[arg(long, value_name = "HOURS", default_value_t = 24.0)]
    pub lifetime: f64,
    /// Write the table, the curves and the plots into this folder.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// Seeds of replays.
#[derive(Clone, Debug)]
pub struct Seeds(pub Vec<u64>);

impl std::str::FromStr for Seeds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("{text:?} is no list of seeds; expected 42-51 or 1,2,3");
        let number = |word: &str| word.trim().parse::<u64>().map_err(|_| expected());
        let mut seeds = Vec::new();
        for part in text.split(',') {
            match part.split_once('-') {
                Some((first, last)) => {
                    let (first, last) = (number(first)?, number(last)?);
                    if first > last || last - first >= 1000 {
                        return Err(expected());
                    }
                    seeds.extend(first..=last);
                }
                None => seeds.push(number(part)?),
            }
        }
        Ok(Self(seeds))
    }
}
