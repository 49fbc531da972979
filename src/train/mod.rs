//! Training: from data to weights, for models and for quality heads. Refuses to know requests, engines and sockets.

pub mod sudoku;
