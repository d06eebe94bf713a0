"""The implementation: only names importable from `keras_swift` itself are public."""
