//! Traces as text: the Alibaba release's two files, or the plain form of them.
//!
//! Nodes: `name` (or `sn`), `cpu_milli`, `memory_mib`, `gpu`, `model`.
//! Pods: `name`, `cpu_milli`, `memory_mib`, `num_gpu`, `gpu_milli`, `gpu_spec`.
//! Columns are found by name, in any order; `model` and `gpu_spec` may be
//! missing, and columns that are not named here are ignored.

use csv::StringRecord;

use crate::packing::{self, Catalogue, NodeSpec, PodSpec, ShapeId};

/// What is wrong with a trace, and where.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is not CSV.
    #[error("{file}:{line}: {problem}")]
    Csv {
        /// The file as the caller named it.
        file: String,
        /// The line, from 1.
        line: u64,
        /// What the reader says.
        problem: String,
    },
    /// A column is not there.
    #[error("{file}:1: no column {wanted}; the header has {found}")]
    NoColumn {
        /// The file as the caller named it.
        file: String,
        /// The names that would do.
        wanted: String,
        /// The header.
        found: String,
    },
    /// A cell is not the number that it should be.
    #[error("{file}:{line}: {column} is {value:?}; expected {expected}")]
    BadCell {
        /// The file as the caller named it.
        file: String,
        /// The line, from 1.
        line: u64,
        /// The column.
        column: String,
        /// What stands there.
        value: String,
        /// What should.
        expected: &'static str,
    },
    /// A row describes something that cannot be.
    #[error("{file}:{line}: {source}")]
    BadRow {
        /// The file as the caller named it.
        file: String,
        /// The line, from 1.
        line: u64,
        /// Why.
        source: packing::Error,
    },
    /// A file has a header only.
    #[error("{0}: no rows after the header")]
    Empty(String),
}

/// One file of a trace.
#[derive(Clone, Copy, Debug)]
pub struct File<'a> {
    /// Its name, for messages.
    pub name: &'a str,
    /// Its text.
    pub text: &'a str,
}

/// A cluster and a workload, in the words of one catalogue.
#[derive(Clone, Debug)]
pub struct Trace {
    /// Models, kinds of node, shapes of pod.
    pub catalogue: Catalogue,
    /// The kind of each node, by name.
    pub nodes: Vec<u16>,
    /// The shape of each pod, by name.
    pub pods: Vec<ShapeId>,
}

impl Trace {
    /// Reads the two files.
    ///
    /// # Errors
    ///
    /// What is wrong, with file and line.
    pub fn parse(nodes: File<'_>, pods: File<'_>) -> Result<Self, Error> {
        let mut catalogue = Catalogue::default();
        let mut node_rows = Table::open(nodes)?.rows(read_node)?;
        node_rows.sort_by(|a, b| a.1.name.cmp(&b.1.name));
        let mut pod_rows = Table::open(pods)?.rows(read_pod)?;
        pod_rows.sort_by(|a, b| a.1.name.cmp(&b.1.name));
        let bad = |file: File<'_>, line, source| Error::BadRow {
            file: file.name.to_owned(),
            line,
            source,
        };
        let kinds = node_rows.iter().map(|(line, node)| {
            let kind = catalogue.kind(node);
            kind.map_err(|source| bad(nodes, *line, source))
        });
        let kinds = kinds.collect::<Result<_, _>>()?;
        let shapes = pod_rows.iter().map(|(line, pod)| {
            let shape = catalogue.shape(pod);
            shape.map_err(|source| bad(pods, *line, source))
        });
        let shapes = shapes.collect::<Result<_, _>>()?;
        Ok(Self {
            catalogue,
            nodes: kinds,
            pods: shapes,
        })
    }

    /// Thousandths of GPUs of the cluster.
    pub fn capacity(&self) -> u64 {
        let kinds = self.catalogue.kinds();
        let gpus = self.nodes.iter().map(|kind| &kinds[usize::from(*kind)]);
        gpus.map(|kind| u64::from(kind.gpus) * 1000).sum()
    }
}

fn read_node(row: &Row<'_>) -> Result<NodeSpec, Error> {
    Ok(NodeSpec {
        name: row.text(&["name", "sn"])?.to_owned(),
        cpu: row.number(&["cpu_milli"])?,
        memory: row.number(&["memory_mib"])?,
        gpus: row.number(&["gpu", "num_gpu"])?,
        model: row.optional("model").to_owned(),
    })
}

fn read_pod(row: &Row<'_>) -> Result<PodSpec, Error> {
    let gpus = row.number(&["num_gpu"])?;
    let models = row.optional("gpu_spec").split('|');
    let models = models.map(str::trim).filter(|model| !model.is_empty());
    Ok(PodSpec {
        name: row.text(&["name"])?.to_owned(),
        cpu: row.number(&["cpu_milli"])?,
        memory: row.number(&["memory_mib"])?,
        gpus,
        milli: row.number(&["gpu_milli"])?,
        models: models.map(str::to_owned).collect(),
    })
}

struct Table<'a> {
    file: File<'a>,
    reader: csv::Reader<&'a [u8]>,
    header: StringRecord,
}

impl<'a> Table<'a> {
    fn open(file: File<'a>) -> Result<Self, Error> {
        let mut reader = csv::ReaderBuilder::new()
            .trim(csv::Trim::All)
            .comment(Some(b'#'))
            .from_reader(file.text.as_bytes());
        let header = reader.headers().map_err(|error| broken(file, &error))?;
        Ok(Self {
            header: header.clone(),
            file,
            reader,
        })
    }

    fn rows<T>(
        mut self,
        read: impl Fn(&Row<'_>) -> Result<T, Error>,
    ) -> Result<Vec<(u64, T)>, Error> {
        let mut rows = Vec::new();
        for record in self.reader.records() {
            let record = record.map_err(|error| broken(self.file, &error))?;
            let line = record.position().map_or(0, csv::Position::line);
            let row = Row {
                file: self.file.name,
                header: &self.header,
                record: &record,
                line,
            };
            rows.push((line, read(&row)?));
        }
        if rows.is_empty() {
            return Err(Error::Empty(self.file.name.to_owned()));
        }
        Ok(rows)
    }
}

fn broken(file: File<'_>, error: &csv::Error) -> Error {
    Error::Csv {
        file: file.name.to_owned(),
        line: error.position().map_or(1, csv::Position::line),
        problem: match error.kind() {
            csv::ErrorKind::UnequalLengths {
                expected_len, len, ..
            } => format!("{len} columns; the header has {expected_len}"),
            _ => error.to_string(),
        },
    }
}

struct Row<'a> {
    file: &'a str,
    header: &'a StringRecord,
    record: &'a StringRecord,
    line: u64,
}

impl Row<'_> {
    fn cell(&self, name: &str) -> Option<&str> {
        let at = self.header.iter().position(|column| column == name)?;
        self.record.get(at)
    }

    fn optional(&self, name: &str) -> &str {
        self.cell(name).unwrap_or_default()
    }

    fn text(&self, names: &[&str]) -> Result<&str, Error> {
        let found = names.iter().find_map(|name| self.cell(name));
        found.ok_or_else(|| Error::NoColumn {
            file: self.file.to_owned(),
            wanted: names.join(" or "),
            found: self.header.iter().collect::<Vec<_>>().join(", "),
        })
    }

    fn number(&self, names: &[&str]) -> Result<u32, Error> {
        let text = self.text(names)?;
        text.parse().map_err(|_| Error::BadCell {
            file: self.file.to_owned(),
            line: self.line,
            column: names.join(" or "),
            value: text.to_owned(),
            expected: "a whole number that is not negative",
        })
    }
}
