"""The two-valley model of Y26: its landscape, hopping between the valleys, freezing in one."""
