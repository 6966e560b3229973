//! Tables of the pure parts.

mod cache;
mod push;
mod redirects;
mod replicas;
mod shown;
mod trust;
