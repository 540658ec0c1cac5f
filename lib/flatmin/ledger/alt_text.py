"""Alternative text on the pages: a plug-in of myst-nb for pictures shown by :func:`flatmin.ledger.plots.alt`.

myst-nb takes a picture's ``alt`` from the metadata of the cell only; this one takes it from the metadata of
the output, where ``alt`` puts it. Registered in ``pyproject.toml`` under ``myst_nb.mime_renderers``.
"""


class AltTextRenderer:
    """Renders PNG outputs that bring an ``alt`` text along, and leaves all others to myst-nb."""

    mime_priority_overrides = ()

    @staticmethod
    def handle_mime(renderer, data, inline):
        """Return the image node with its ``alt`` text, or None for any other output."""
        text = data.output_metadata.get("image/png", {}).get("alt")
        if inline or data.mime_type != "image/png" or not text:
            return None
        images = renderer.render_image(data)
        for image in images:
            image["alt"] = text
        return images
