//! content (to come)
