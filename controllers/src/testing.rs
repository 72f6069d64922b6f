//! An API server small enough for tests of one controller: objects in a map, actions applied to it.
