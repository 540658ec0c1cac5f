"""The logarithmic landscape of M22: its laws, and the exact chain of SGD on linear regression."""
