"""Pictures on the pages: a plug-in of myst-nb for those shown by :func:`flatmin.ledger.plots.alt`.

myst-nb takes a picture's ``alt`` text and width from the metadata of the cell only; this one takes them
from the metadata of the output, where ``alt`` puts them. Registered in ``pyproject.toml`` under
``myst_nb.mime_renderers``.
"""


class AltTextRenderer:
    """Renders PNG outputs that say something about themselves, and leaves all others to myst-nb."""

    mime_priority_overrides = ()

    @staticmethod
    def handle_mime(renderer, data, inline):
        """Return the image node with its ``alt`` text, width and cuts, or None for any other output."""
        about = data.output_metadata.get("image/png", {})
        if inline or data.mime_type != "image/png" or not about:
            return None
        nodes = renderer.render_image(data)
        for image in (image for node in nodes for image in node.findall() if image.tagname == "image"):
            image["alt"] = about.get("alt") or image.get("alt", "")
            if "width" in about:
                image["width"] = f"{about['width']}px"
                image["classes"] += ["no-scaled-link"]
            if about.get("cuts"):
                image["classes"] += ["flatmin-cuts-" + "-".join(map(str, about["cuts"]))]
        return nodes
