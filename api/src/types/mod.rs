//! Small typed views of objects for daemons: only fields that are read. Never written back.
