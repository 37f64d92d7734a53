//! Histories over gRPC and on the command line.
