pub mod copy_rows;
