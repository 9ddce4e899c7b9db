//! vipd: the daemon and its command line.
