"""Do metrics move the right way? The truth beside itself, made worse in known ways."""
