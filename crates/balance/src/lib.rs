//! Which peer, may it be repeated, how long to wait: pure rules without I/O
