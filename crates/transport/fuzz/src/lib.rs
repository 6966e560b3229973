//! What the fuzz targets do with their input. The crate's own tests replay the corpus through the same
//! functions.

pub mod bodies;
