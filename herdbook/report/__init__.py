"""What a person sees of a herd: tables, and later plots and pages."""
