//! The Common Expression Language, as Kubernetes uses it: rules of custom
//! resources (`x-kubernetes-validations`) and admission policies. Pure.
//!
//! Parsing and evaluating is the `cel` crate's; here is what Kubernetes adds:
//! its function library ([`functions`]), how objects become values
//! ([`convert`]), and a bound on what one evaluation may cost. There is no type
//! checker: what Kubernetes finds wrong with types when an expression is
//! stored is found here when it is evaluated.
//!
//! ```text
//! text ─ compile ─ Expression ─┐
//!                              ├─ evaluate ─ value or error
//! objects ─ convert ─ Scope ───┘
//! ```

pub mod convert;
mod functions;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

use ::cel::common::ast::{EntryExpr, Expr, IdedExpr};
use ::cel::{Context, Env, Program};

pub use ::cel::Value;

/// Most characters of an expression.
const MAX_LENGTH: usize = 64 << 10;
/// Most steps that one evaluation may take, as estimated beforehand.
const MAX_STEPS: u64 = 2_000_000;
/// Most bytes of text in an object that functions may be applied to whose
/// result can be longer than their arguments together.
const MAX_GROWTH: usize = 64 << 10;
/// Functions whose result can be longer than their arguments together.
const GROWING: [&str; 3] = ["replace", "join", "format"];

static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(functions::environment()));

/// An expression that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("compilation failed: {0}")]
pub struct CompileError(pub String);

/// An evaluation that gave no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvaluateError {
    /// It might take too long or too much.
    #[error("operation cancelled: actual cost limit exceeded")]
    Budget,
    /// A field that is not there, types that do not fit, and the like.
    #[error("{0}")]
    Failed(String),
    /// The result is not what is needed.
    #[error("a {wanted} is needed, and it is a {found}")]
    Type {
        /// What is needed.
        wanted: &'static str,
        /// What it is.
        found: String,
    },
}

/// An expression that was read.
#[derive(Debug)]
pub struct Expression {
    source: String,
    program: Program,
    /// Nodes of the syntax tree.
    nodes: u64,
    /// Loops within loops.
    depth: u32,
    grows: bool,
    variables: BTreeSet<String>,
}

impl Expression {
    /// Reads an expression that may use these variables.
    ///
    /// # Errors
    /// When it cannot be parsed, is too long, or names something unknown.
    pub fn compile(source: &str, declared: &[&str]) -> Result<Self, CompileError> {
        if source.len() > MAX_LENGTH {
            return Err(CompileError(format!(
                "the expression is longer than {MAX_LENGTH} bytes"
            )));
        }
        let program = ENV
            .compile(source)
            .map_err(|error| CompileError(error.to_string()))?;
        let mut walk = Walk::default();
        walk.expression(program.expression(), 0, &mut Vec::new());
        if let Some(name) = walk
            .free
            .iter()
            .find(|name| !declared.contains(&name.as_str()) && !functions::is_type(name))
        {
            return Err(CompileError(format!("undeclared reference to '{name}'")));
        }
        if let Some(name) = walk
            .functions
            .iter()
            .find(|name| !functions::is_known(name.as_str()))
        {
            return Err(CompileError(format!(
                "undeclared reference to '{name}': this function is not known here"
            )));
        }
        Ok(Self {
            source: source.to_owned(),
            nodes: walk.nodes,
            depth: walk.depth,
            grows: walk.functions.iter().any(|f| GROWING.contains(&f.as_str())),
            variables: walk.free,
            program,
        })
    }

    /// The text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether it names a variable.
    pub fn uses(&self, variable: &str) -> bool {
        self.variables.contains(variable)
    }

    /// Evaluates it.
    ///
    /// # Errors
    /// When it fails, or would cost more than one evaluation may.
    pub fn evaluate(&self, scope: &Scope) -> Result<Value, EvaluateError> {
        let longest = scope.size.items.max(self.nodes);
        let steps = (0..self.depth).try_fold(self.nodes, |steps, _| {
            steps
                .checked_mul(longest)
                .filter(|steps| *steps <= MAX_STEPS)
        });
        if steps.is_none() || (self.grows && scope.size.text > MAX_GROWTH) {
            return Err(EvaluateError::Budget);
        }
        self.program
            .execute(&scope.context)
            .map_err(|error| EvaluateError::Failed(spoken(&error)))
    }

    /// Evaluates it to yes or no.
    ///
    /// # Errors
    /// As [`Self::evaluate`], and when the result is something else.
    pub fn holds(&self, scope: &Scope) -> Result<bool, EvaluateError> {
        match self.evaluate(scope)? {
            Value::Bool(result) => Ok(result),
            other => Err(EvaluateError::Type {
                wanted: "bool",
                found: other.type_of().to_string(),
            }),
        }
    }

    /// Evaluates it to text.
    ///
    /// # Errors
    /// As [`Self::evaluate`], and when the result is something else.
    pub fn text(&self, scope: &Scope) -> Result<String, EvaluateError> {
        match self.evaluate(scope)? {
            Value::String(result) => Ok(result.to_string()),
            other => Err(EvaluateError::Type {
                wanted: "string",
                found: other.type_of().to_string(),
            }),
        }
    }
}

/// The library's errors, those in Kubernetes' words that have them there.
fn spoken(error: &::cel::ExecutionError) -> String {
    use ::cel::ExecutionError as E;
    match error {
        E::NoSuchKey(key) => format!("no such key: {key}"),
        E::NoSuchOverload(_) => format!("no such overload: {error}"),
        E::UndeclaredReference(name) => format!("undeclared reference to '{name}'"),
        E::IndexOutOfBounds(_) => "index out of bounds".into(),
        E::DivisionByZero(_) => "division by zero".into(),
        E::RemainderByZero(_) => "modulus by zero".into(),
        E::Overflow(..) => "integer overflow".into(),
        other => {
            let mut text = other.to_string();
            let mut end = text.len().min(1024);
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            text.truncate(end);
            text
        }
    }
}

/// How much there is to look at.
#[derive(Debug, Clone, Copy, Default)]
struct Size {
    /// Elements of the longest list or map.
    items: u64,
    /// Bytes of all texts.
    text: usize,
}

/// The variables of an evaluation.
pub struct Scope {
    context: Context<'static, 'static>,
    size: Size,
}

impl std::fmt::Debug for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scope").field("size", &self.size).finish()
    }
}

impl Default for Scope {
    fn default() -> Self {
        let mut context = Context::with_env(ENV.clone());
        functions::add(&mut context);
        Self {
            context,
            size: Size::default(),
        }
    }
}

impl Scope {
    /// Sets a variable; a dotted name is found by field access.
    pub fn set(&mut self, name: &str, value: Value) {
        measure(&value, &mut self.size);
        self.context.add_variable_from_value(name, value);
    }
}

fn measure(value: &Value, size: &mut Size) {
    match value {
        Value::List(items) => {
            size.items = size.items.max(items.len() as u64);
            items.iter().for_each(|item| measure(item, size));
        }
        Value::Map(map) => {
            size.items = size.items.max(map.map.len() as u64);
            map.map.values().for_each(|item| measure(item, size));
        }
        Value::String(text) => {
            // Text can be split into as many parts as it has characters.
            size.text += text.len();
        }
        _ => {}
    }
}

/// What is in an expression.
#[derive(Default)]
struct Walk {
    nodes: u64,
    depth: u32,
    free: BTreeSet<String>,
    functions: BTreeSet<String>,
}

impl Walk {
    fn expression<'a>(&mut self, part: &'a IdedExpr, depth: u32, bound: &mut Vec<&'a str>) {
        self.nodes += 1;
        self.depth = self.depth.max(depth);
        match &part.expr {
            Expr::Unspecified | Expr::Literal(_) => {}
            Expr::Ident(name) => {
                if !bound.contains(&name.as_str()) {
                    self.free.insert(name.trim_start_matches('.').to_owned());
                }
            }
            Expr::Call(call) => {
                // `optional.of(x)` is a function with a dot in its name.
                let namespace = match call.target.as_deref().map(|t| &t.expr) {
                    Some(Expr::Ident(name)) if functions::is_namespace(name) => Some(name),
                    _ => None,
                };
                match namespace {
                    Some(namespace) => {
                        self.functions
                            .insert(format!("{namespace}.{}", call.func_name));
                    }
                    None => {
                        self.functions.insert(call.func_name.clone());
                        if let Some(target) = &call.target {
                            self.expression(target, depth, bound);
                        }
                    }
                }
                for argument in &call.args {
                    self.expression(argument, depth, bound);
                }
            }
            Expr::Comprehension(c) => {
                self.expression(&c.iter_range, depth, bound);
                self.expression(&c.accu_init, depth, bound);
                let before = bound.len();
                bound.push(&c.iter_var);
                bound.extend(c.iter_var2.as_deref());
                bound.push(&c.accu_var);
                self.expression(&c.loop_cond, depth + 1, bound);
                self.expression(&c.loop_step, depth + 1, bound);
                self.expression(&c.result, depth, bound);
                bound.truncate(before);
            }
            Expr::List(list) => {
                for element in &list.elements {
                    self.expression(element, depth, bound);
                }
            }
            Expr::Map(map) => self.entries(map.entries.iter().map(|e| &e.expr), depth, bound),
            Expr::Struct(new) => {
                self.entries(new.entries.iter().map(|e| &e.expr), depth, bound);
            }
            Expr::Select(select) => self.expression(&select.operand, depth, bound),
        }
    }

    fn entries<'a>(
        &mut self,
        entries: impl Iterator<Item = &'a EntryExpr>,
        depth: u32,
        bound: &mut Vec<&'a str>,
    ) {
        for entry in entries {
            match entry {
                EntryExpr::StructField(field) => self.expression(&field.value, depth, bound),
                EntryExpr::MapEntry(entry) => {
                    self.expression(&entry.key, depth, bound);
                    self.expression(&entry.value, depth, bound);
                }
            }
        }
    }
}
