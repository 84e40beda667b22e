//! What the tests of whole networks share: networks built by hand or at random, and an interpreter
//! that computes what they mean.

#![allow(dead_code)] // every test binary uses its own part

pub mod build;
pub mod compare;
pub mod interpret;
pub mod random;
