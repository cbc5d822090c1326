//! What is said about a variable: an error stops the start, a notice is logged.

use std::fmt;

/// A variable that stops the start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The value is outside what the variable accepts, and upstream aborts as well.
    #[error("{variable}={value:?} is not accepted: {rule}")]
    Invalid {
        /// The variable.
        variable: &'static str,
        /// What it was set to.
        value: String,
        /// What it accepts.
        rule: &'static str,
    },
    /// The value asks for something that this build does not do.
    #[error("{variable}={value:?} asks for a feature that is not built yet: {feature}")]
    NotBuilt {
        /// The variable.
        variable: &'static str,
        /// What it was set to.
        value: String,
        /// What it would switch on.
        feature: &'static str,
    },
}

/// Every error of one environment; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Errors(pub Vec<Error>);

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}

/// A value that was read as something else, which upstream does in silence, or that changes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// The variable.
    pub variable: &'static str,
    /// What it was set to.
    pub value: String,
    /// What it accepts.
    pub rule: &'static str,
    /// What is used instead; `None`: the variable is accepted and changes nothing.
    pub used: Option<String>,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            variable,
            value,
            rule,
            used,
        } = self;
        match used {
            Some(used) => write!(
                f,
                "{variable}={value:?} is not accepted ({rule}); {used:?} is used instead"
            ),
            None => write!(f, "{variable}={value:?} changes nothing here: {rule}"),
        }
    }
}
