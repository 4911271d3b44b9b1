"""What recipes on pictures share: files, features, distances, networks of styles, domains."""
