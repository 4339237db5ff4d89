"""Keep the label store's migrations, which run when a store is opened."""
