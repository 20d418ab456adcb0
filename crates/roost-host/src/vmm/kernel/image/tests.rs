//! Images as they are, cut, and wrong.
