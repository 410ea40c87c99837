"""The cluster as a file declares it: read, written, compared, and made so."""
