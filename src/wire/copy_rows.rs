//! Row boundaries in COPY data.
