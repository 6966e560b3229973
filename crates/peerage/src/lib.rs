//! Services find each other and call each other, without a sidecar or a control plane
