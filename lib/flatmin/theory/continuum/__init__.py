"""The limit of small steps: Fokker–Planck equations, adiabatic reduction, the critical window, escape."""
