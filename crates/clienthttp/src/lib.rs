//! An HTTP client that finds the peer it talks to: discover, pick, dial, authenticate, fail over
