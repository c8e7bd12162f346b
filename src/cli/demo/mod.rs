//! `tenantry demo`: the scale-out story, step by step.

pub mod data;
