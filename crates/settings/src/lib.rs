//! Every variable and flag of the stack, with upstream's parsing.
