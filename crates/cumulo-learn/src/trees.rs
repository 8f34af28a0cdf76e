//! Evaluates a LightGBM model in Rust.
//!
//! Reads the text format (`version=v4`, also `v3`) that LightGBM writes and adds
//! up leaves in the same order and precision as LightGBM's own
//! `GBDT::PredictRaw`, so the numbers are the same to the last bit before the
//! link function. There is no lock, no allocation per row and no native library
//! at serving time. Decisions follow `Tree::NumericalDecision` and
//! `Tree::CategoricalDecision` in LightGBM's `include/LightGBM/tree.h`.

use std::str::FromStr;

/// A text that is not a model this crate can evaluate.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum TreesError {
    /// A field is missing.
    #[error("the model text has no `{field}` in {place}; it is cut off or not a LightGBM model")]
    Missing {
        /// The field.
        field: &'static str,
        /// The header or the tree.
        place: String,
    },
    /// A field does not hold what it must.
    #[error("`{field}` in {place} of the model text is wrong: {reason}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// The header or the tree.
        place: String,
        /// Why.
        reason: String,
    },
    /// A feature of LightGBM that is not evaluated here.
    #[error("the model uses {0}, which is not evaluated here; load it in Python instead")]
    Unsupported(String),
}

/// How raw scores become predictions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Link {
    /// Regression: the score itself.
    Identity,
    /// Two classes: `1 / (1 + exp(-sigmoid × score))`, the positive class's probability.
    Logistic {
        /// The factor that the model was trained with.
        sigmoid: f64,
    },
    /// Several classes: the scores' softmax.
    Softmax,
    /// Counts and the like: `exp(score)`.
    Exponential,
}

/// A split. Children are nodes when ≥ 0, otherwise `!leaf`.
#[derive(Clone, Copy, Debug)]
struct Node {
    /// Numbers: go left when `value <= threshold`. Categories: where the bits begin.
    threshold: f64,
    feature: u32,
    left: i32,
    right: i32,
    /// Categories: number of 32-bit words.
    words: u16,
    kind: Kind,
}

/// What a node compares, and where a missing value goes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// `NaN` counts as 0.
    Number,
    /// 0 and `NaN` are missing.
    NumberMissingZero {
        left: bool,
    },
    /// `NaN` is missing.
    NumberMissingNan {
        left: bool,
    },
    Category,
}

#[derive(Clone, Copy, Debug)]
struct Tree {
    /// Where the nodes begin; `!0` is the first leaf of a tree without a split.
    root: i32,
    first_node: u32,
    first_leaf: u32,
}

/// A model ready to predict; immutable, so that any number of threads share it.
#[derive(Clone, Debug)]
pub struct Trees {
    features: usize,
    classes: usize,
    link: Link,
    trees: Vec<Tree>,
    nodes: Vec<Node>,
    leaves: Vec<f64>,
    bits: Vec<u32>,
    used: Vec<bool>,
}

/// LightGBM takes smaller numbers for 0 (`kZeroThreshold`).
const ZERO: f64 = 1e-35_f32 as f64;

/// Rows that are walked through one tree before the next: their values stay in
/// the first-level cache together with the tree.
const BLOCK: usize = 64;

impl Trees {
    /// Reads a model's text.
    pub fn parse(text: &str) -> Result<Self, TreesError> {
        let mut sections = text.split("\nTree=");
        let header = Section::new("the header", sections.next().unwrap_or_default());
        if !header.text.trim_start().starts_with("tree") {
            return Err(TreesError::Missing {
                field: "tree",
                place: header.place,
            });
        }
        let classes: usize = header.number("num_tree_per_iteration")?;
        let last_feature: usize = header.number("max_feature_idx")?;
        if classes == 0 || classes > 100_000 {
            return Err(header.invalid("num_tree_per_iteration", "it must be 1 to 100,000"));
        }
        if last_feature > 1_000_000 {
            return Err(header.invalid("max_feature_idx", "it must be at most 1,000,000"));
        }
        if header.text.lines().any(|line| line == "average_output") {
            return Err(TreesError::Unsupported(
                "averaged output (random forest)".into(),
            ));
        }
        let mut model = Self {
            features: last_feature + 1,
            classes,
            link: link(header.get("objective").unwrap_or("regression"))?,
            trees: Vec::new(),
            nodes: Vec::new(),
            leaves: Vec::new(),
            bits: Vec::new(),
            used: vec![false; last_feature + 1],
        };
        for section in sections {
            let (number, body) = section.split_once('\n').unwrap_or((section, ""));
            let body = body.split("\nend of trees").next().unwrap_or_default();
            model.read_tree(&Section::new(&format!("tree {number}"), body))?;
        }
        if !text.contains("\nend of trees") {
            return Err(TreesError::Missing {
                field: "end of trees",
                place: "its end".into(),
            });
        }
        if !model.trees.len().is_multiple_of(classes) {
            return Err(header.invalid(
                "num_tree_per_iteration",
                "the number of trees is not a multiple of it",
            ));
        }
        Ok(model)
    }

    fn read_tree(&mut self, section: &Section<'_>) -> Result<(), TreesError> {
        let leaves: usize = section.number("num_leaves")?;
        if leaves == 0 || leaves > 1 << 20 {
            return Err(section.invalid("num_leaves", "it must be 1 to 1,048,576"));
        }
        if section.get("is_linear").is_some_and(|value| value != "0") {
            return Err(TreesError::Unsupported("linear trees".into()));
        }
        let first_leaf = self.leaves.len() as u32;
        let first_node = self.nodes.len() as u32;
        self.leaves
            .extend(section.numbers::<f64>("leaf_value", leaves)?);
        let splits = leaves - 1;
        self.trees.push(Tree {
            root: if splits == 0 { !0 } else { 0 },
            first_node,
            first_leaf,
        });
        if splits == 0 {
            return Ok(());
        }
        let features = section.numbers::<usize>("split_feature", splits)?;
        let thresholds = section.numbers::<f64>("threshold", splits)?;
        let decisions = section.numbers::<u8>("decision_type", splits)?;
        let left = section.numbers::<i32>("left_child", splits)?;
        let right = section.numbers::<i32>("right_child", splits)?;
        let categories: usize = section.number("num_cat")?;
        let first_word = self.bits.len();
        let mut boundaries = Vec::new();
        if categories > 0 {
            boundaries = section.numbers::<usize>("cat_boundaries", categories + 1)?;
            let words = boundaries.last().copied().unwrap_or(0);
            if words > 1 << 24 {
                return Err(section.invalid("cat_boundaries", "the sets are too large"));
            }
            self.bits
                .extend(section.numbers::<u32>("cat_threshold", words)?);
        }
        for node in 0..splits {
            if features[node] >= self.features {
                return Err(section.invalid("split_feature", "it names a feature beyond the last"));
            }
            for (field, child) in [("left_child", left[node]), ("right_child", right[node])] {
                // A child comes after its parent, which is why every walk ends.
                let sound = if child >= 0 {
                    child as usize > node && (child as usize) < splits
                } else {
                    (!child as usize) < leaves
                };
                if !sound {
                    return Err(section.invalid(field, "it leads outside the tree"));
                }
            }
            let default_left = decisions[node] & 2 != 0;
            let mut threshold = thresholds[node];
            let mut words = 0;
            let kind = if decisions[node] & 1 != 0 {
                let set = threshold as usize;
                let (Some(&from), Some(&to)) = (boundaries.get(set), boundaries.get(set + 1))
                else {
                    return Err(section.invalid("threshold", "it names a set that is not there"));
                };
                words = to
                    .checked_sub(from)
                    .filter(|_| first_word + to <= self.bits.len())
                    .and_then(|words| u16::try_from(words).ok())
                    .ok_or_else(|| {
                        section.invalid("cat_boundaries", "a set is too large or reversed")
                    })?;
                threshold = (first_word + from) as f64;
                Kind::Category
            } else {
                match (decisions[node] >> 2) & 3 {
                    0 => Kind::Number,
                    1 => Kind::NumberMissingZero { left: default_left },
                    2 => Kind::NumberMissingNan { left: default_left },
                    _ => return Err(section.invalid("decision_type", "unknown missing type")),
                }
            };
            self.used[features[node]] = true;
            self.nodes.push(Node {
                threshold,
                feature: features[node] as u32,
                left: left[node],
                right: right[node],
                words,
                kind,
            });
        }
        Ok(())
    }

    /// Number of features of a row.
    pub fn features(&self) -> usize {
        self.features
    }

    /// Numbers per row: 1, or the number of classes when there are more than two.
    pub fn outputs(&self) -> usize {
        self.classes
    }

    /// Number of boosting rounds.
    pub fn rounds(&self) -> usize {
        self.trees.len() / self.classes
    }

    /// Whether some tree splits on the feature.
    pub fn uses(&self, feature: usize) -> bool {
        self.used.get(feature).copied().unwrap_or(false)
    }

    /// Predicts rows of [`Trees::features`] numbers each, given one after the
    /// other, into [`Trees::outputs`] numbers per row.
    ///
    /// # Panics
    ///
    /// When a slice is not a whole number of rows or they disagree in number.
    pub fn predict_into(&self, rows: &[f64], out: &mut [f64]) {
        assert_eq!(rows.len() % self.features, 0);
        assert_eq!(rows.len() / self.features, out.len() / self.classes);
        assert_eq!(out.len() % self.classes, 0);
        out.fill(0.0);
        let blocks = rows
            .chunks(BLOCK * self.features)
            .zip(out.chunks_mut(BLOCK * self.classes));
        for (rows, out) in blocks {
            for (position, tree) in self.trees.iter().enumerate() {
                let class = position % self.classes;
                for (row, out) in rows
                    .chunks_exact(self.features)
                    .zip(out.chunks_exact_mut(self.classes))
                {
                    out[class] += self.leaf(tree, row);
                }
            }
            for out in out.chunks_exact_mut(self.classes) {
                self.apply_link(out);
            }
        }
    }

    fn leaf(&self, tree: &Tree, row: &[f64]) -> f64 {
        let nodes = &self.nodes[tree.first_node as usize..];
        let mut at = tree.root;
        while at >= 0 {
            let node = &nodes[at as usize];
            let value = row[node.feature as usize];
            let left = match node.kind {
                Kind::NumberMissingNan { left } => {
                    if value.is_nan() {
                        left
                    } else {
                        value <= node.threshold
                    }
                }
                Kind::Number => {
                    let value = if value.is_nan() { 0.0 } else { value };
                    value <= node.threshold
                }
                Kind::NumberMissingZero { left } => {
                    if value.is_nan() || value.abs() <= ZERO {
                        left
                    } else {
                        value <= node.threshold
                    }
                }
                Kind::Category => self.contains(node, value),
            };
            at = if left { node.left } else { node.right };
        }
        self.leaves[tree.first_leaf as usize + !at as usize]
    }

    fn contains(&self, node: &Node, value: f64) -> bool {
        // `as` would turn NaN into 0, a category of its own.
        if value.is_nan() || value <= -1.0 {
            return false;
        }
        let category = value as usize;
        let word = category / 32;
        word < usize::from(node.words)
            && self.bits[node.threshold as usize + word] >> (category % 32) & 1 == 1
    }

    fn apply_link(&self, out: &mut [f64]) {
        match self.link {
            Link::Identity => {}
            Link::Logistic { sigmoid } => {
                for score in out {
                    *score = 1.0 / (1.0 + (-sigmoid * *score).exp());
                }
            }
            Link::Exponential => {
                for score in out {
                    *score = score.exp();
                }
            }
            Link::Softmax => {
                let highest = out.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let mut sum = 0.0;
                for score in out.iter_mut() {
                    *score = (*score - highest).exp();
                    sum += *score;
                }
                for score in out {
                    *score /= sum;
                }
            }
        }
    }
}

fn link(objective: &str) -> Result<Link, TreesError> {
    let mut words = objective.split(' ');
    let name = words.next().unwrap_or_default();
    match name {
        "regression" | "regression_l1" | "huber" | "fair" | "quantile" | "mape"
            if objective.split(' ').all(|word| word != "sqrt") =>
        {
            Ok(Link::Identity)
        }
        "binary" => {
            let sigmoid = words
                .find_map(|word| word.strip_prefix("sigmoid:"))
                .and_then(|value| value.parse().ok())
                .unwrap_or(1.0);
            Ok(Link::Logistic { sigmoid })
        }
        "multiclass" => Ok(Link::Softmax),
        "poisson" | "gamma" | "tweedie" => Ok(Link::Exponential),
        _ => Err(TreesError::Unsupported(format!("the objective `{name}`"))),
    }
}

/// `key=value` lines of the header or of a tree.
struct Section<'a> {
    place: String,
    text: &'a str,
}

impl<'a> Section<'a> {
    fn new(place: &str, text: &'a str) -> Self {
        Self {
            place: place.trim().to_owned(),
            text,
        }
    }

    fn get(&self, field: &str) -> Option<&'a str> {
        self.text
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix('='))
    }

    fn need(&self, field: &'static str) -> Result<&'a str, TreesError> {
        self.get(field).ok_or_else(|| TreesError::Missing {
            field,
            place: self.place.clone(),
        })
    }

    fn number<T: FromStr>(&self, field: &'static str) -> Result<T, TreesError> {
        let value = self.need(field)?;
        value
            .trim()
            .parse()
            .map_err(|_| self.invalid(field, &format!("`{value}` is no number of its kind")))
    }

    fn numbers<T: FromStr>(&self, field: &'static str, count: usize) -> Result<Vec<T>, TreesError> {
        let values = self
            .need(field)?
            .split_ascii_whitespace()
            .map(|value| {
                value.parse().map_err(|_| {
                    self.invalid(field, &format!("`{value}` is no number of its kind"))
                })
            })
            .collect::<Result<Vec<T>, _>>()?;
        if values.len() == count {
            Ok(values)
        } else {
            Err(self.invalid(
                field,
                &format!("it holds {} values where {count} belong", values.len()),
            ))
        }
    }

    fn invalid(&self, field: &'static str, reason: &str) -> TreesError {
        TreesError::Invalid {
            field,
            place: self.place.clone(),
            reason: reason.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests;
