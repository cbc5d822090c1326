//! The intermediate form: ordered layers of rules with provenance, and the one evaluator over them.
