"""Arrays and programs: small linear algebra, compiled programs."""
