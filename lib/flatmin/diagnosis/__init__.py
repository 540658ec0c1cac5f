"""A network of the reader's own, measured as the five theories ask: :func:`flatmin.diagnose`.

``measure`` does it within a budget (``plan``), ``theories`` says what the papers predict from it, ``report``
is what comes back.
"""
