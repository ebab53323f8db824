//! Why a call was refused. The forest is unchanged when one of these is returned.

use std::fmt;

/// Result of everything that takes input from outside.
pub type Result<T> = std::result::Result<T, TreeError>;

/// Why a call was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TreeError {
    /// A field holds a value outside what is allowed.
    Invalid {
        /// Name of the field, as in the caller's signature.
        field: &'static str,
        /// The value found.
        value: String,
        /// What the field may hold.
        allowed: String,
    },
    /// An invariant does not hold: a defect of this crate.
    Broken {
        /// Which one, with the place.
        invariant: String,
    },
}

impl TreeError {
    pub(crate) fn invalid(
        field: &'static str,
        value: impl fmt::Display,
        allowed: impl Into<String>,
    ) -> Self {
        Self::Invalid { field, value: value.to_string(), allowed: allowed.into() }
    }
}

impl fmt::Display for TreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid { field, value, allowed } => {
                write!(f, "{field} is {value}, but must be {allowed}")
            }
            Self::Broken { invariant } => write!(f, "broken invariant: {invariant}"),
        }
    }
}

impl std::error::Error for TreeError {}
