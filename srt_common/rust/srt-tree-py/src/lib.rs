//! Python face of `srt-tree`: conversion, GIL release and error mapping; no logic.
#![allow(clippy::needless_pass_by_value, reason = "PyO3 extracts arguments by value")]

mod convert;
mod forest;
mod readings;

use pyo3::prelude::*;

/// The native module `srt_common.tree._tree`.
#[pymodule(gil_used = false)]
mod _tree {
    use pyo3::prelude::*;
    use pyo3::types::PyBytes;
    use srt_tree::{LEARNED_KEY, Lane, MAX_SOFT_TARGETS, Mode, SNAPSHOT_VERSION};

    #[pymodule_export]
    use crate::forest::Forest;
    #[pymodule_export]
    use crate::forest::split_snapshot;
    #[pymodule_export]
    use crate::readings::{Drafts, ForestStats, PromptStats, RowStats};

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("LANE_POLICY", Lane::Policy as u8)?;
        module.add("LANE_RUN_AHEAD", Lane::RunAhead as u8)?;
        module.add("LEARNED_KEY", PyBytes::new(module.py(), &LEARNED_KEY.0))?;
        module.add("FLAG_OBSERVATION", crate::convert::FLAG_OBSERVATION)?;
        module.add("MODE_OFF", Mode::Off as u8)?;
        module.add("MODE_POINT_MASS", Mode::PointMass as u8)?;
        module.add("MODE_SAMPLED", Mode::Sampled as u8)?;
        module.add("MAX_SOFT_TARGETS", MAX_SOFT_TARGETS)?;
        module.add("SNAPSHOT_VERSION", SNAPSHOT_VERSION)
    }
}
