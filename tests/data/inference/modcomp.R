# F tests of nested models by pbkrtest, for tests/test_anova.py: Rscript modcomp.R > modcomp.json
suppressMessages({
  library(lme4)
  library(pbkrtest)
  library(jsonlite)
})

TIGHT <- lmerControl(optimizer = "bobyqa", optCtrl = list(rhoend = 1e-12, maxfun = 1e5))

frame_of <- function(case) {
  places <- file.path(c("..", "data"), basename(case$data$file))
  data <- read.csv(places[file.exists(places)][1], colClasses = "character", na.strings = "")
  for (name in names(case$data$columns)) {
    column <- case$data$columns[[name]]
    data[[name]] <- if (column$type == "numeric") as.numeric(data[[name]])
                    else factor(data[[name]], levels = column$levels)
  }
  data
}

compare <- function(name, small, large) {
  case <- fromJSON(file.path("cases", paste0(name, ".json")), simplifyVector = TRUE)
  DATA <<- frame_of(case)
  one <- lmer(as.formula(small), DATA, REML = TRUE, control = TIGHT)
  two <- lmer(as.formula(large), DATA, REML = TRUE, control = TIGHT)
  kr <- KRmodcomp(two, one)$test["Ftest", ]
  sat <- SATmodcomp(two, one)$test
  list(case = name, small = small, large = large,
       `kenward-roger` = list(f = kr$stat, df_num = kr$ndf, df_denom = kr$ddf,
                              scale = kr$F.scaling, p_value = kr$p.value),
       satterthwaite = list(f = sat$statistic, df_num = sat$ndf, df_denom = sat$ddf,
                            p_value = sat$p.value))
}

tests <- list(
  compare("lmm_cake", "angle ~ temp + (1 | recipe:replicate)",
          "angle ~ recipe * temp + (1 | recipe:replicate)"),
  compare("lmm_crossed", "y ~ A + x + (1 | subj) + (1 | item)",
          "y ~ A * B + x + (1 | subj) + (1 | item)"),
  compare("lmm_machines_unbal", "score ~ 1 + (1 | Worker) + (1 | Worker:Machine)",
          "score ~ Machine + (1 | Worker) + (1 | Worker:Machine)"),
  compare("lmm_oats_factor", "yld ~ Nf + (1 | Block/Variety)",
          "yld ~ Variety * Nf + (1 | Block/Variety)"),
  compare("lmm_orthodont", "distance ~ age + (age | Subject)",
          "distance ~ age * Sex + (age | Subject)"),
  compare("lmm_three", "y ~ A + B + C + x + (1 | g)", "y ~ A * B * C + x + (1 | g)"),
  compare("lmm_unbalanced", "y ~ x + A + (1 | g)", "y ~ x * A + (1 | g)"),
  # the smaller model has none of the larger one's columns, but combinations of them
  compare("lmm_sleepstudy", "Reaction ~ Days + (Days | Subject)",
          "Reaction ~ factor(Days) + (Days | Subject)"),
  compare("lmm_sleepstudy", "Reaction ~ 0 + Days + (Days | Subject)",
          "Reaction ~ Days + I(Days^2) + (Days | Subject)")
)
versions <- list(R = paste(R.version$major, R.version$minor, sep = "."),
                 lme4 = as.character(packageVersion("lme4")),
                 pbkrtest = as.character(packageVersion("pbkrtest")))
cat(toJSON(list(versions = versions, tests = tests), auto_unbox = TRUE, digits = NA, pretty = 1))
