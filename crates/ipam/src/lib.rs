//! The node's address pool: step(state, event, now) to effects.
