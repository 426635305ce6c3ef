//! Shared by the integration tests: adversarial rows, golden files, digests.

pub mod golden;
pub mod rows;
