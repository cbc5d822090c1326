//! Traces hop by hop over nodenet and vpc; placements; the verdict ALWAYS, SOMETIMES, NEVER or UNKNOWN.
