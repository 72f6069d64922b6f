//! Write-ahead log, MVCC index, watch, leases. Bytes in, revisions out.
