"""The 36-language images: packages, names, drawings, licences."""
