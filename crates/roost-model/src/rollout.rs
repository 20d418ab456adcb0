//! Rolling deploys as a pure plan.
