/**
 * What engines of former versions, and of this one, have saved or left: bytes that they have made
 * themselves, packed by gzip, in base64. One of a new version is made by it and added; none is ever
 * made anew.
 */
import type { StoredJournal, StoredState } from './stored-guests.js';

export const storedStates: readonly StoredState[] = [
  {
    version: 1,
    bytes:
      'H4sIAAAAAAACA8VWTYgcRRTu8SfGGcQIOUTNIZSShNhZ6r36H1B71mQ9mBXjQkJYBml3enebne3ZzPSyG9cBPYhXTx5UokhAUA+CJ2+CePWUU0DwqKDgKaJ40O6erp7pzLazRvAdqr8qXn3vv2YuLSy9sNS6dL7mOM6ndcfZI1GvEwxIc3mPbATXSHOPRKQJRgBlEpjWXKNQQ5d0ezukCS5ZD9fWSZO6ZC2Igr4fh72INOnQrbiu8+tIJUrBlKE5DyjDlaCU4iQhMAkCFKe8ktlYxzijmgsqVM7MEAU3UihTYpZaaWBGQxWzpNZnrUAoqTAn5gCKM+Bll43hXAtqKnMhwXpMqZFKAxrrsRBKiDuJwTApjDJJtBXMaD1GTpnmILRl5sxwAxL5JLMQCqnGSlpmHRbKMIUGbRMgp1IybUCWHObaCC2FkJXMPGdmxoA2QoEtHlIFaBQ1MMmsGSAqrXQlsbAug+JcM8O5JdYUOaPGlDKBQmghQVWnWFpi1IozBdoWDxgaqkEmMYwTMy2lRERd3RZ2whgDRhE0KxpZGOCSMyxlmSNoIQStdrmYPaMMVYqDLnKBVILhvJRk1AYolVpWN4YpmBkiGGR2qtFwYRC1EOXGUAoZpbxyqhUtplopigoNL94LQKRGlhsDtBJcMiWqme30MSGN0FxIZpkBldEIrFRApKiM0pwN2y4ZBINB2Iuy5zLskCZzSRSs9eLQj4NOYnMzjHr9pOwuWe36a4Nk0JVGAIlqdITp87np774c+B1/PfA7SfsATZ6YTX/3cj+Mg+Qa10LJ9Oglfy15olFkDdjb2N5KXFgGF9vuMrrQdpdZuvJ0Fekq01W50G67ZN2POt3ROx9GnWD3jjcc3PSnIAUj19MGGGnDPto4VRv30WZWm7pkEPcDfzPJWhDF/TDxjrQKOd9a4mPbi89dCPnC2H7+ysUrdjffWgjnd8buXl58mrhkpbe51Q2SfK763UEwHNpUPD/uXup5hzT5/1pOnZbTpGUDmn0g+2Q1hqzIwA9cU32gmpoD1RToXRZ1cbKodKKo59b+dVHbSXZXNgaJMyOQ/MsJow5pkq3eINwldqSzUc77v7cTBX3SJIq4ZCtpDMgtpDHG17YyvUHs92PSJJS4JEhpDUkfoH1s8LF63JWNtkt2/DAO+gePSef2cHZ7LtmOwqvbAWkSxg8c4X9gsT0cLp5fXFhK/rY6N796vOWkMuc97OTy67O/tOzGua+Ar0Xf3GoJcvNwjvuff9CYhjOd5Ob9zmrYDeiIwKs7nbAfrMS9/rXR2REvU4FsS8ZVRmcnvex72LvxpjNNUptfL/9Yz/Gpcz9b7Fz/rV7SSeWoV7uD6Kg3iMNutzh4stLkG/wdG/L3779r8SPyvUZJZ3aTzoTJWtnkrbMP2sheuWCx99h39XGdmvOAsz0I+nO91YSCVjnQ8WOfFgdHvPHyHyo78NSSje3Fjx6ait+6/Wc9K3/N8QvLr2bwmFdzVjJ43Ks5nQye8PIGqArf+eKqtfLt7dctvv7T241xnVL48E/hQ3FwsjL8j+/90hpqdD+birNJmAj/dBH+mSJ8twh/zsvdGbd+T8n6qVatMSO2cqyS0fvhUGNGbOV4JePZR+uNGbGVE5WM+7XZFGzldCXj8h8fNmbEVs5UMj6xcaMxI7biVjL+/swnjRmxlblKxv36dQr+W/4CXfIlveAQAAA=',
    guests: [
      {
        file: 7708392565148588382n,
        fh: 4294967296n,
        removed: 13853402321595725441n,
        removedFh: 4294967297n,
        directory: 17684233215400586664n,
        listing: 4294967298n,
        read: ['.', '..', 'a', 'b'],
        cookie: 4n,
      },
      {
        file: 12036349469701256168n,
        fh: 4294967296n,
        removed: 5708362080017234821n,
        removedFh: 4294967297n,
        directory: 15425221828233704333n,
        listing: 4294967298n,
        read: ['.', '..', 'a', 'b'],
        cookie: 4n,
      },
    ],
  },
  {
    version: 2,
    bytes:
      'H4sIAAAAAAACA8VWzYscRRTvCRo1KMkhQtCgoZCYCc1Sr159DgRnNmYVkoXEJQlxGbTd6d1tdrZnM9PrbgyDqDf/Ak9+QPSgXjwoEhAJiuQgilcPgpd4UhQ8iCft7umamc5sZVYF36H6V8Wr3/uumQtzC6cXGhdO7fE87919nneVxJ1W2CO1xatkLbxCaldJTGqguQBjhOCKU8ZE3yftzhapgU9Wo5VVUqM+WQnjsBskUScmNdr3HddlcZ1xjYpRyQsaoIpywSjqcT7QKI1UhksnsSqIUWk0xgDQghm5FloKzdU4M5MKUGpK3S5r67Li6Q3KlPXZIJeUapTjzCgko9JocBIb6zIoUIwabolRokLGGMMSsUbUqIWLF2nBy42kKs2z9ReE4kIbKcr+cuSoJXInMVhiKgyA4EJYhw0VlGluTNlhBdxQxZzVQ2ZzjEC1ooyyoc+GCs2MZiVmDowxYajbZyyYFUNUAGgKYo4KuDKGlnNB0y6Uyjh5uS2elgKYkdLmghspAAwX5XZjlCu4A6+dL8lQc4PGtjHTQDlDNOVEUKaEQURnG6OdPEG5EailHWDOAKkWCsvzwZUUTCh36ezggaCAKLnUtimQgaQKVDnFRqJEhuCcDxwOHiigaYA2FxoNBS1EaTwAuRRCCnQT28Fj1AjghoF9hQxyrThVUEqFRiExHf9+0ye9sNeLOnH+UkYtUkOfxOFKJ4mCJGylNtejuNNNe8Mny+1gpZc9b5oByPTxyI5Y9nKuB9vPhEErWA2DVuo/UMWy04vdKAnTa1wLJbOjs8FK+jozkZeys7a5kbqwCD5r+ovMh6a/iNnKs1Vkq8xW5UOz6ZPVIG61B098FLfC7dueb/CzX4EMDFxnaTIH2rCDNpuozXbQRqtNfdJLumGwnmYtjJNulHpHZhtWTjUW+Mj23MkzEZ8b2c9eOnfJ7mYbc9Hs1sjdi/MniE+WOusb7TDN53LQ7oX9vk3FU6PuZZ63SI3/r+XUWTlNVjag+QfyT15jyIsMfNc11buqqdlVTdPfW3dRT245izo/XlQ6VtQnV/5xUZtpdpfWeqkzA5D+wYniFqmRjU4v2iZ2pPNRLvq/sxWHXVIjivhkI20MKCxkMSZXNnK9XhJ0E1IjlPgkzGgNyR6gHWzwkXr8KxtNn2wFURJ2dx+TLuyx6e35ZDOOLm+GpEaQ7zrC/8Bis9+fPzU/t1DxPM/7Wj/U8DKZqe/3Cvn1iZ8bduPdNYQvxV9833j05onHC/zHw59WJ+FcJ715t7cctUM6IKjv81pRN1xKOt0rg7MD9VwF8i0ZVRmcHa3n33vr117xJklm842XT1v73nNnLT5y/tlqSSeTg/XKbUQH670kareHB485Te5/9SNLfevMxxbvvfVJtaQzvUlvzGSlZPLHG+/Y7L9/87rFZ366rzqqU/Hu8TZ7YXems5xSUJcDrSAJ6PDgQH20/HtLDjwy87o1dF6/OBG/9UtQzctf8YKh5RdyeKhe8ZZyeLhe8Vo5PFIvGsAV/lfX3rZW5n9/z+Kg8WF1VKcUPtwpfBgeHHWGf/+3X1pDPzx9YyLOJ2Es/GPD8I8Pw/eH4c/UC3dGre8pWf/ug9XqlNjKISfjN3+uV6fEVg47GV/77XJ1SmzliJNxpzabgK0cczKuPXi9OiW2ctzJuPX8Z9UpsRXfyfjmA59Xp8RWZpyMO/XrBPy3/AXzpyL82xAAAA==',
    guests: [
      {
        file: 4597556495394921312n,
        fh: 4294967296n,
        removed: 14971679814892338822n,
        removedFh: 4294967297n,
        directory: 8309047324180972483n,
        listing: 4294967298n,
        read: ['.', '..', 'a', 'b'],
        cookie: 4n,
      },
      {
        file: 1877536321285506179n,
        fh: 4294967296n,
        removed: 2132502569713480385n,
        removedFh: 4294967297n,
        directory: 12070676557177237422n,
        listing: 4294967298n,
        read: ['.', '..', 'a', 'b'],
        cookie: 4n,
      },
    ],
  },
  {
    version: 3,
    bytes:
      'H4sIAAAAAAACA8VWz2scVRyfrT+pNdtDKRV6KA8ptQzx+32/36C4m5oE0QXbQEsJexizk2TIZibuTkhi2YPgqQgeerO0F72IiGAvQrEICvoHeCieFC+9VOq1J5mZnZndSXa6UcHvYfbzHt/3+f74fN9jLy8svb3UvDz/lGVZnx61rGskCDtenzjL18iGt0ecayQgjhRKG6AguDHMsIFNuuEOcdAm6/7aOnHAJmte4PXcyA8D4sDAnnyaZ6eZAaGUYmAyGsqBasOU5uN8lHPNlVaiilfkvJpzI7jRIuNl3KBi2ihd4qVAOdVIaRWxzIg5Rcq4UJQWxIop1MBKxMww4AqY4FXEqshYSKXBCJYTM4g9tMYSsdaIRoCobLHOBZKgFKMibuiQWBolDRW0xKsYAmMMsIrXZLyUKS4BJMtbbEBoCUqWeFEBIDNCVzSCA+S8KBhViFTlIyEFF8YYrUrSoRJUMYaqihiLhBkajryQDjUYlEoYM07MqURNgVGoIqa5dAAgNTdKZsRCUY5cK1bqMChEBYKzKt7iasWDRRlyVfAC50qq0l2joFGiQtRVvMWl0wwRtTbFDAsqpeaClxNWoAwDiFWfTFzcOqG0YFJi/ihIpgGVliXlELmgIKmmVbzFpWMcmRKQ94HFbwSloEujprTSjElZSZtfOckZMDSSF/PAQFMmsDwOhmpKqcJB2yZ9r9/3wyB9Hv0OcZhNAm8tjHw38jpxxE0/CHtxm22y2nXX+sRBUJoiynimky2avJeb7u4lz+24657bIQ4yBEWT3Ss9P/LiY1yLeKo23d133bX4SaYi7Uq4sb0Vp7CMNm3by9TGtr3Mki9PviL5yuSrbGy3bbLuBp3u8F33g463u+/RRjt5+hMwTD1p5dAbJ3jTA73pBG+We4NN+lHPczfjrnlB1PPj7MhcM7f55hIfWV688I7PF0bWc1cvXs1Xc80Ff25n5OyV1uvEJivh5lbXi/u56nb73mCQt2JxNL0k8w5x+P8qp07kNIlsCOkPpj+pxpiKjPzQmupDaWoOpSnCk0S9sFMpamtcVBgT9c21fyxqO+7uykY/TmYI4n81ftAhDtkK+/4uya90epWz+Q93Aq9HHKKITbbiwcAsQlJjtLeV+vUjtxcRhwCxiZfQGpI8PxNi8BE9/lWMtk12XD/yeoevSWfx6PTxbLId+O9ve8QhjB+6wv8gYnswaM23FpZqlmVZP39zpGklNtuoW5k9euNhM19YT+eo8UHww6/NlZO3j2X445Nf1w/CqU988hlr1e96kDEctTp+z1uJwt7ecO94I3XBdElGXYZ7Zxvp7/ONzz+0DrA0Zv2TX2Yy/IW4n+Mbl3+bGfdJ7USjto/pRKMf+d1usfFyZcjwo8/ykl956csc39z7qj7uc4iQ1ljIWink3e8vvZjhzv0gx60H92ZGfWrWc9Z23+vNhqsxBVQl0HEjF4qN441R+Z8tJfD4hfW8tsU/Wgfit6wHM6n8NcstIr+XwlONmrWSwtONmtVJ4ZlGNgBV5R+7fj2Pwm7dyPGtv27WR31K5eOTysdi42xl+a3vfswDBY/uHYjTmzBW/rmi/PNF+XZR/mwjS2c0+pHywP30cGY6XNipSsbHd16rT4cLO13JaP2+WJ8OF3amknHSmO3HhZ2rZLx94U59OlzY+UrGjVe/rU+HC7MrGf/culufDhc2W8k4aV7349j+Bkx9Yk7QEAAA',
    guests: [
      {
        file: 10320350221947465373n,
        fh: 4294967296n,
        removed: 14996904720523418473n,
        removedFh: 4294967297n,
        directory: 14919505372947630970n,
        listing: 4294967298n,
        read: ['.', '..', 'a', 'b'],
        cookie: 4n,
      },
      {
        file: 7770315673019783726n,
        fh: 4294967296n,
        removed: 2458503162279678384n,
        removedFh: 4294967297n,
        directory: 2450054088466523467n,
        listing: 4294967298n,
        read: ['.', '..', 'a', 'b'],
        cookie: 4n,
      },
    ],
  },
  {
    version: 4,
    bytes:
      'H4sIAAAAAAACA8VWT2gcVRiflVqll/bQQw89lEcptY6Z73v/34J0N7XxoAHbQEsJC06zk2TsZjbuTkhiWcR6FA9eFD0IQsGDF/WinouIB0EvRTwUDyoqFhUPFvEgM7PzZneTPDcq+B1mf/P45vf7/r7k0tzCEwvNS+cPeJ739iHPu06Sbjvqk/ridXIt2ib16yQhdSaBMQQQSqLhQg180ulukjr6ZDVeWSV18MlKlES9MI27CanDwHd8rsvPOVBlqKKoSx4qAVEJjXyc0AigUqBmTmJjialGoxA1K4mZVhSN0EKOE1MALaVUgrqYJZTMTFGKSLWyqTMuqFIUDBtn1lILzblCJzGWxNRIaQyg5LYWHITRBsdpGZeageTcSUstLQgOBhkzJS0qjhQV05OF0AqBKiqdxMwWghnQBqikNt5MVwsFYiJiRg1kHXESc0tsDKKWiitbYZTcZHJqnBgBDaAR2Tw6mIVl5loIyhmzU4FMItVSw0SRUSuQQknpngpZMmsADSCh4lWCMibUxF4IDhKy6XbS2vWSikquFTUjJVYm85uYNYZaMsEFdzfPLh5qBA5SMltj1Nxw1IATEaPUioKixrl50m4eZUYKqbiuasGp5FQwM7nSKJURKJx3hYKR5lHBOBeWmEkjGSiqJ0MWnHKljTtkZTePowFAITivmDmVEimbmGTKAIGBRhi0fNKP+v24mxR3ZdwmdeaTJFrppnGYRu1MdC1Our3s7vHJcidc6WcjqzRFlFQNj2h+d66FWxejsB2uRmE7mx4ERfPTy704jbLPuBZK5kdPhSvZ/UxFMX3daxvrWQiL6NOWv0h9bPmLLH/y/Cnyp8yfysdWyyerYdLuDC/5OGlHWzsucPTzvwM5GIaer8LQG/fwprt60z28mfUGn/TTXhSuZVWLkrQXZ9GR2aa1880FPvJ64dyTMZ8beZ+9cuGKfZttzsWzmyPfXp5/lPhkqbu23omyei6HnX40GNhSPD4aXh55m9T5/9pOnbfT5G1DKH6w+Cl6jEWTke+7p3pfPTX76ml2f7ibem7T2dT58abCWFMfW/nHTW1l1V261s+CGYLsX5w4aZM6We/24y1iV7pY5XL+u5tJ1CN1oohP1rPBwFIhzzHdXi/8+mnYS0mdAPFJlNMakt9Ae2jwkX78K42WTzbDOI16+89Jl3p0ej2fbCTxsxsRqRPG953hf6DYGgzmz8/PLdQ8z/OuvvFQ08ttpnHYK+2Xs3eb9sU7YFHjueTWV82Pz37nlxi//DHYDRc+2Zf3e8txJ4KS4ZDXjnvRUtrtbQ/PjjQKFyxeyajL8OxUo/h9sHHzBW8XKzS/vnnR6t98esvizbMvBuM+hR1t1HYwHW3007jTqQ5OOiUPBt9Y6k9Ofm/xp+/8EIz77EPSG5OsTUje+fb9R0qs731m8TOvPxyM+tS8B7yNftSb6S5nFOAKoB2mIVQHRxqj7T84EcBrL39ohRb+eGtX/MGNl4Ki/TUvrJSvFvBYo+YtFfB4o+a1C3iiUQ6AK/3myc+tynZ02+L3DtwJRn0m0se/Sx+rg1PO9J+/+7sVuvHnb7viYhPG0j9dpX+mSt+v0p9plOGMqt83of7u4VeC6XBlx5yMt2+/GkyHKzvuZPxo4c1gOlzZCSfjXmO2E1d22sl46dZPwXS4sjNOxv69n4PpcGW+k3H7i1+D6XBlM07GveZ1J87sL8w3whPdEAAA',
    guests: [
      {
        file: 11171965056304106162n,
        fh: 4294967296n,
        removed: 16630954569508696559n,
        removedFh: 4294967297n,
        directory: 14829543223698583399n,
        listing: 4294967298n,
        read: ['.', '..', 'a', 'b'],
        cookie: 4n,
      },
      {
        file: 5846682294256984429n,
        fh: 4294967296n,
        removed: 5906583207591406780n,
        removedFh: 4294967297n,
        directory: 12661136553567309337n,
        listing: 4294967298n,
        read: ['.', '..', 'a', 'b'],
        cookie: 4n,
      },
    ],
  },
  {
    version: 5,
    bytes:
      'H4sIAAAAAAACA8VVzWscZRiflVall1Ypugs9lBeppQ7hfZ73e6S4m9p4aAPWQEsNi06zk2TIZjbubkjSsGBRvHipRVBEFLGoFFTEnhU/eunBgxdB/wZFvXqRmdl5Z3eSTDcq+BxmfvPyvL/n93wxF2fmzs01Lp496DjOrUOOs016Qa8XdqIe8ea3SdgiHnNJFCx1+qHfD1rE2yarYdTpEo9plyy2/aUe8YAqjQAS1fAIiUddsupvPhf4LX858FvEAwZUYXJ6qRv2g/ga10LJ5OhZfynoEQ+FHLik3emsrK/FEubBxaY7jy403XmWPHnyFMlTJk/lQrPpkmU/arWDofCoFWwmIpaCKOj6/bATEQ9cEnVaQQKG0nHgWm/Ywxt39cY9vJn1pi7p9buBvxpXLYj63TBWR6Yb1s425vjI54Uz50M+M/I9ffnCZfs13ZgJpzdG7l6aPU1cstBZXWsHcT0X/XYvGAxsKZ4ZlZcobxGP/6/t1Ek7TdI2oOkL0lfaY0ibDHzfPdX76qnZV0+B3qupZzZKmzo73lQ61tSnl/5xU5txdRdWerGYIZjfJith1CIeWev0wk3iZiudrnI2/52NKOgSjyjikrV4MCCLkOTY31pL/Xp9v9snHqHEJUFCa0hcsb1i8JF+/KsYTZds+GE/6O4/J53Fw8njuWQ9Cl9aD4hHGN93hv9BxOYg5R2mG2zFPY0TRC6YAqU0MA3AkoXaSGsZLi3vWAiaaN/rOrfXKZeUGYOY8SAFEAAKC1vAAIUCjmBKmUXGjKgMSmaEssyAzAgp5TgxApVcSeTlxNJKRoOCUoWWGLSRChXjxTVHqlCgYaXEyipmjHHgymS8DCQwTQ03BcUaGXLJVHmRtSWW3DDBgFpmQEo16iTWmGLGGVNAqS5lNpZZK2WUYtJK5pxKJhiyQvcMw5hclNYCaUbMuJIcECWMFENLoYwsMmspENEIVcoMtn1Kq3i8qK0FNUygLs4bGqkZM0pgKS/aUgBQEAa4JWYSuVZcxf+0cWbBATiPR6qEmeVFFhw0F4JnzAZQCAayKFkYSqkQSpQS83zglJCGQz5xiJppNLwomaEyUinBSncE7fJx5BLiPZcjxWAMFYfijiiupeBGQylzvn2guQEGzA5GXCputCiMMgeOTCspS0cZ7fYJYEqC0cwqVkqyuBbFX72myJQGIwfNwezZ2Zm5iuM4zvnDjzecxKbqh53Mfn/q14b9cA5Y9PLV6LufG59+8fkjGb4x/05tN5z6xDcPOothO6BDhvohpxV2g4V+p7s1PDtST10g/SSjLsOzE/X0/WD95jVnF0tjHpcvVjP801dvWnyj8V513Ce1o/XKDqaj9V4/bLfzg8dKQ/52+g2b8tWH3rL41l9v18Z99hHSGQtZKYS88vWhRzP85PMnLV64C9VRn4rzgLPeC7pTncWYgpYJaPl9n+YHR+qj7b+/IODuK7/YQAf+vLMr/nH742ra/orj55GvpLBarzgLKTxWrzitFB6vZwNQlv7N72u2sj98dM3iO7dfr436FNKHe6UP+cGJ0vTPvfCJDXT9tQ93xekmjKV/Mk//VJ6+m6c/Vc/kjEa/rxD9+spn1clwbtVSRvPNl9XJcG7HShn/eOLb6mQ4t+OljHuN2U6c28lSxtuvvlubDOd2qpSxPfN+bTKcm1vKWH34g9pkOLep8unZY1534tj+BquOAKLgEAAA',
    guests: [
      {
        file: 8639377062556683634n,
        fh: 4294967296n,
        removed: 912232441561403093n,
        removedFh: 4294967297n,
        directory: 8146381900316540663n,
        listing: 4294967298n,
        read: ['.', '..', 'a', 'b'],
        cookie: 4n,
      },
      {
        file: 469666794394021032n,
        fh: 4294967296n,
        removed: 15568718453916727588n,
        removedFh: 4294967297n,
        directory: 3919385989505574506n,
        listing: 4294967298n,
        read: ['.', '..', 'a', 'b'],
        cookie: 4n,
      },
    ],
  },
  {
    version: 6,
    bytes:
      'H4sIAAAAAAACA8VVz4scRRTukSSGXJLDLEQIIRQxJLFd6lW9qlfVqJndJKtgVpMsbgzLIJ2d3k2b2Zl1ZjabuAzEc/6DXLzof+DRQ0DwJIgKHoz/QtCLePEg3T1dPdO725lVwXfo/rp49b0f33v08sLSu0tzy1ePeJ735Jjn7bB+1O/H3U6fBSs7LG6xQPqsE613B3E4iFos2GEbcafbY4E0Pltrh+t9FgAnIwC0oNGRYAH32Ub44GYUtsK7UdhiAUjgJNLTW714ECXX0CjS6dH1cD3qs0AoPfRZu9u9t7WZpLACvmj6K8KHpr8i0yemT5U+dfokH5pNn90NO612NEq804oepEmsR52oFw7ibocF4LNOtxWlYJS6GPrOG/bxFnt6i328pfPmPusPelG4kXQt6gx6cZIdm59zdnVuCcc+b1y+FuPC2Pf87Ru33df83EI8vz1299bim8xnq92NzXaU9HMtbPej4dC14u3x9NLMWyzA/1VOk8ppU9mAZy/IXpnGkIkMeGBNzYE0tQfSFPiLRL28XSnq4qSofELUK+v/WNRm0t3Ve/0kmRFY2WH34k6LBWyz248fMD9f6WyV8/nvbneiHgsYMZ9tJoMBeYS0xsHDzcyvPwh7AxYwznwWpbSWJR3bLwaO6fGvYjR9th3Gg6h38JpMHk9MH89nW534k62IBUzigSv8DyI2hxnvqNzoYaJphwXE0QhrueREkijdp+2slfH63V37wNPU97lt3G1pSRs0VuU00pIEJGH0JJ9EA0agNaKK2ObEEkAgmmRhMl7LSRmpuS2tlrVASFLaClrDc1rkkoxUBnXOK4RUwK1ScpLYWlBAwlbyQs4rOAGgQGVdH4BrJbWQVE6YjBUaFVQRi4JYGBBcOpm0RtRIHEu0RFyCRSOraKXrAyQUUgh0fQAjpRISSrqloqEBqCRGNxBKCUAltXHE2gojBdcl5VAgByORKhuhcmKyKAARhGswIXJjoNwJFIKkJIm6ile7QbNI3GhFxaQJKVBKKuUrDQJyyWXVZhi3V5KMIGONKSZCKEkEKMt/B1QSiKhaumLl0KIlIbUjJgEcNJUWWII2EgCrJ7hYOCJtOJqCViAKJZFT6d+nOUDSX6zgtcXGCcUBCcgNBKBSkmsSpT4IbgCVAFUlnHUrJzlyjhKFEw6sEiSVofIIa+KkNSc7bA4Xry4uLNU8z/OuHz0056U22zju5fb7pedz7sM75NDTTzvf/DIHp38+nuMfjs7P7IUzn+TmYW8tbkd8xNA45rXiXrQ66PYejs5ONDIXyD7ZuMvo7Fwjex9tfPGZt4dlMe2Fz+s5/vHxlw4/3fiqPumTWb1R28VUb/QHcbtdHJytDMlD5Uq+cO0Nh698eGlm0ucAIb2JkLVSyD+7753I8a2bbYfvH35UH/epeS97W/2oN9tdSyh4VQKtcBDy4uBEY1z+I6UEfnv1DxfokXq2J75z6Ot6Jn/NC4vIdzJ4slHzVjN4qlHzWhk808gHoKr8I89Pus7WlpnDZw+/PjPuUyofXlQ+FAfnKst/7fvbLtCTV5b2xNkmTJR/vij/YlG+X5Q/28jTGY/+Uin609Pf1qfDhZ2sZPzor+/q0+HCTlUyPn7rp/p0uLAzlYz7jdluXNj5Ssb7H78zMx0u7GIl4/UPFmemw4X5lYzPfn1/Zjpc2Gwl437zuhsn9jcv12eN0BAAAA==',
    guests: [
      {
        file: 17064537656958843551n,
        fh: 4294967296n,
        removed: 3898041919351896074n,
        removedFh: 4294967297n,
        directory: 9599722437150014534n,
        listing: 4294967298n,
        read: ['.', '..', 'a', 'b'],
        cookie: 4n,
      },
      {
        file: 16080735960816861196n,
        fh: 4294967296n,
        removed: 3965300123000619754n,
        removedFh: 4294967297n,
        directory: 13974841892881877761n,
        listing: 4294967298n,
        read: ['.', '..', 'a', 'b'],
        cookie: 4n,
      },
    ],
  },
  {
    version: 7,
    bytes:
      'H4sIAAAAAAAAA8VUTYgcRRTuFTWzgiRoDgFzCKWEENql3nv1O6DObLKrYhZMFjeEZZB2p3fS7uzMMtNhE5YBBU8qeFX0ouYoHryIJw8eBUXw5EXEq4oHf0BFpLtnqmc7PZ2JHnyHnq+KV9/73t9srK4/s97cWDnied7bi553wIbhcBj1e0NW3zxgUZvV0We9sNOPoyAO26x+wHajXn/A6mR8tt0NOkNWB64NAijU4ytkde6z3eD6pTBoB1fDoM3qQMA1preXB1EcJs+EkVqlV88GnXDI6ijVyGfdfn/n2l4iYRN8bPmb6EPL36T0K9KvTL8q/WofWi2fXQ167W44Ft5rh9dTEZ2wFw6COOr3WB181uu3wxSMpePId94wwxtLvXGGNzlv7rNhPAiD3aRqYS8eRIk6ttx0ttJcF1PHi+cuRGI1P3eWr1y84k7nmqvR8r47Pt28vPYY89lWf3evGyb13A66w3A0cqV4clpeqrzN6uJ/badJ22nTtgHPfiD7yXoMWZNB3HFPzR311N5RT4Hfrqnn9iubuna4qfxQU893/nVTW0l1t3aGiZgx2DxgO1Gvzepsrz+MrjN/stLZKk/mv7/fCweszjTz2V4yGDCJkOYY39jL/IZxMIhZnXHmszCltSyp2KwYYqof/ylGy2f7QRSHgySn1iijHecX3kgS7iVTa5QVUnA0BtJR28+iRJ2rt4wKT3WXvkX3VpISGpSZcAgUKK1EYQ+TESdtAbRSs1nJsVoirYnbCStYJEHEqTBxZMhKS1WkYkJKxggNUkucsKJEEmC1KmpVXCAHq2E2rZzQojaaUCgiVwKuLEgrhSnSkkEuNKfZtGpCqxRpFKgcKyggUsoqUWAlAZxQmIoaaFcDMEZzDqRdDTQXUhNSYfPRWJIGOFbQGlcDBOREFvOGgZZgtAFZ+IvgZKxCK2azWjcFRoAUxFU+BRqFAVRFrUoJozUCzmS13JVAkUKpObmxR6NJchSCCpUFjQpAajOb1i0RgtJCCos5LQprEsEFWkBUgqwRs8fA5vulQRFKNDmtQELgZAvThZK0RW6tnE3rFkwLCcYSl3m/UCmDRuhCDVAqK62QFWLzDeMkNAmd7y1xaYhzIlEUyzlosLpCrNswASCUlsK4xSWlJSlrTYFWoLZkuZGj1mhtZW11fcFL7KnXG+mvt9Q46k3s5yd+bLqDd3cOH/3ws2+a1/46c+8EN97dXCzDmU/y8h5vO+qGfEzQuM9rR4NwK+4PbozvjjUyF8iObNplfHd6rLHWuPmyV2ZpzKPvvFeb4If/+MDhNx/4uFbwSe14Y+EWouONYRx1u/nFI5UhvecvuJRfe+uSwyuvPLdY8Jk/pHco5NSDlO6HP9931f/l9y8d7jy0UZv2WfCOeNeG4WCpv51Q8CoB7SAOeH5xrDHd/ruKOW8cdbm99NXPtTK8vPZpLWv/ghfkkV/I4InGgreVwZONBa+dwVPjJrPK9D/6VbroOzebDn/y9/nFaZ9C+nC79CG/OF2Z/ig+cIHuf3xQirNNOJT+mTz9s3n6fp7+UmMipyr9B1e/qM2JS+1EJftvn39dmxOX2slK9sYb39XmxKV2qpJ91iiW4FI7U8n+6vrW4py41M5Wa//+xcU5can5lew/fdtbnBOX2lIl+6wdKMEF+weBfaBkMRAAAA==',
    guests: [
      {
        file: 18221807844773623872n,
        fh: 4294967296n,
        removed: 8261081968679498781n,
        removedFh: 4294967297n,
        directory: 10838005385819590376n,
        listing: 4294967298n,
        read: ['.', '..', 'a', 'b'],
        cookie: 4n,
      },
      {
        file: 8471742508151994562n,
        fh: 4294967296n,
        removed: 12341599021297361159n,
        removedFh: 4294967297n,
        directory: 9663128736822770889n,
        listing: 4294967298n,
        read: ['.', '..', 'a', 'b'],
        cookie: 4n,
      },
    ],
  },
];

export const storedJournals: readonly StoredJournal[] = [
  {
    version: 3,
    journal:
      'H4sIAAAAAAACA+2YXWgUVxTHz93Zr0xm17gma1hjIsWm4sdsokIUrY229CFoBUttA0rIlzT1IxpsxQdDfBM00j70RUOoGvGhtsUKWtIS26fa2ppCRSGKRK0FH7TtgyI1snIzc7Nnjvdm7wR8kTlwmJndueee/f3vzv0zG99+t8EAJzoiEEQQQQQRRBBBBBFEEEEEEUQQQbyEEU54r5nGmARzxjF0f0hznBGSz2tMoVcD9VwNAAuWvlWf76Zk/Asr7e2v3r0/5o7h3/BxuVzuAh/DNCGYJW5PhFsul8vh+0oBYAt0wDZohxrUNzOdMRc2d84fnrf958b3dswCxJLXffDva2+GIvn6Yo5ozKuXSD7Omu/t61OQz8MUeqt0ZIOJrbLj/TO3Fokc2C9BVyJfW/h3iTmtqHOMu9c97jHurjWhd0xSr4h8JmpZZG2b053zZAHd5gBAF7TDduiET6Ad2lz1hHa858ieg8UPep7+cnvW/zHML0q0C0m0o7ph7ZJEOzqPSjvDp3aDTXttkZNpx8hc5gznmCLz6jLEjIROKapTKv//mUyneQDQBh3j87TCbuiELthLtOLHmcd+7f6xavMHZyInUlirONHKwGuo2ttDj/sdraXSI4x61NGj98Dntsj7qyX/RVcP010gaTSvIWHD528mzxz+2erZdY/W/n2t9+OR0xswC5OwCEtYpAkLWkvFIuKTxabz/bZIHRblGixaCAve0zsP/7ixft1J6+6qq+sxC4uwiEhYlBMWtJaKRdQniw33BmyROiwyGixaCQveU/2KPz98/Hv3N8kf2vswiyRhEZWwyBAWtJaKRcwni56mPlukDosKDRZthAXvqX/nwZGTFy8uqTq1qBezKCEsYhIWFYQFraViEffJAv4atEVOxkLsOSG034hntmU6x0o0hJE9a/x3lnr9wTLyjAszW9weDtl2ZOLj5ujEaUts4rRVPPfn0D0s5MxL/WVY0x/KxhTyh+wF+UPm0x/WknXI18O96vePG9dvfXFldMkRvA5TaB0yd+1gj8GIP4wjj8Ek/pDOo1qjRT49RveB/2yRfv0h7lt4Oqbwh3H0m3T9IVP4QzYlf1jr0Y7PN3p46MlY2eWFfVsbvsTalRLtiiTa4Swi2lF/SOdRaWf61O7OxnhWpF9/yKbkD2ufYyR0kvlDNmV/6NWKc/nopzVjZd/VLWw4/c8Y1ipNtDLJ855J/CGtpdKj2O/etyudFVlo72PEH5qa/pD3NPMurBneaT+6vXz0HGZRTlgUS1hQf0hrqVhYPll81p/JitRhUa7BgvpD3lPN0aGqbxvfONv1dY3n+ZshLCwJC+oPaS0Vi4RPFpfOVmZF6rDIaLCg/pD3tKB/5NK+yyuTQ4e+n4ZZVBAWCQkL6g9pLRWLpE8Wr+6qy4rUYVGhwYL6Q95T6LfOo4tPDGxrqv5qOmZRSVgkJSyoP6S1VCym+WSx8ubrWZGF/CEj/tBE/pBp+kMm8YfFcn9o5f1hIu8Pk15/yCT+EPsCg+zlrxBfgN8xGeS9EL3XLHPum1vAb1K/xq/z+5fXm4l3GHML7IOyd4T4HeAzC/Ogh6QlAAA=',
    contents: [
      [0, 'H4sIAAAAAAACA/N18w1mZICAehYAPncINQ4AAAA='],
      [
        4096,
        'H4sIAAAAAAACA62Wv2oUURTGv9mZ2Z2ZzUYQSSEiFioieCeLgrWvEDAQEIJmNxhUlqz/SCNrl8IUIukkVV5AQgjsK/gEWinaWKSwSyEoM7k3c7Lck5zjZJr5YA/fub9zkrlfEAGvD9oIcPg0ZnCk9+/h6Gng+BOMO0+K9+bC35sSHaeVr/O6AGAZK3iKPmZtb/fb9lvSi+m9/+n7LYmuw8T5FjXN1ONBzhsImOITmK6mifFpx3QWvrev3z/mG2WVb+F1CcBLPEcfQxgMsAyUu4qzqldo31cADNHHMwzwCn30MFvyh4qdjhfXjETX2Snn63YaMjsNyE5Dxexpj92vI68uauhMccpM/5d9484749NFDccFJRf1Lbna1Xkj+74BoIeVkm0JLzDAEGuWLVKwbaxvGonmZhZKZsb4lt+1VnXemDA+tH8nsYLlwd6WkWhuRqFgRpxvUUNZmoTlkWVpKljmfm0bieZYIgEL5zvJ0iKeS5alpWAZLX40Es2xxAIWzneSJSEsPcuSKFjwc2wkmmNpClg4X/d/qPEdPf4i8qX5IvXki66dVaq4i96s/zYSXefbwvm6uyhl7qIGuYtSxV1Ee2TjA692TGfhO/8HOa0p8kV6Sr7oTuSLjL0LuyV/ptjpj/kkl+g6O+V83U4zZqch2WmmmD3t8e3DOa8uamT5oos67AvJ+dynXb7IFPmC46K+JRfJF+0T88UhW1vz7V+dySWam1kkmBnn6/KFO++UJ19MKVjeb13MJZqbUSiYEedb1FCWjidfdBQsn3cu5xLNsUQCFs53kmXaky+mFSzXVu/mEs2xxAIWn+8/UxqBLPwPAAA=',
      ],
      [
        8192,
        'H4sIAAAAAAACA2soFNNnZWdg4GaAAH4ozcLAwJDCwMDAJIYQe+vIAAdMDKiAcRdvNoi2uWerTwwbZC43FnPZcJjbUChG0FyQGlLN1RPPIMpcVk4GBkY0M0QYGBjSGDIZchhSGQygYcWIxW4WHHZPjfyvBWPHxTToY2OD1IDMhYX3kkYGDMCKZu7bjQ91YWwVTg49bOaC1AAABZSft/wBAAA=',
      ],
      [1073741824, 'H4sIAAAAAAACA0tJLEk0YBi5oLgkMydnBPs/JbEk0XCkxz8AG5tlEwUDAAA='],
    ],
    removal: 36n,
    renaming: 36n,
    guests: [
      {
        file: 14370186856244403647n,
        fh: 4294967296n,
        removed: 14554931330615572229n,
        removedFh: 4294967297n,
        directory: 6367280359793139991n,
        listing: 4294967298n,
        read: ['.', '..', 'a', 'b'],
        cookie: 4n,
      },
      {
        file: 11592787724483372777n,
        fh: 4294967296n,
        removed: 3228542159170735840n,
        removedFh: 4294967297n,
        directory: 3186217665953972586n,
        listing: 4294967298n,
        read: ['.', '..', 'a', 'b'],
        cookie: 4n,
      },
    ],
  },
  {
    version: 4,
    journal:
      'H4sIAAAAAAACA+2YfWgcRRjGZ3b3bu82t9d4lhhDkBDa2thyNBhLCoJJKVI0iigtlFiay0dpa2tsqg0eCLHaVoRKUFEERQX/EoQKhUKQNlZBRO33lxSbQETwI9BACUi1p5Pbyb37MJObDfiP7Asvu3u38857v2du52E3P/zUIw4rRyHB4ogjjjjiiCOOOOKII4444ogjjv9hOH74mhuM8Xl5HCf3W4bjbEs9r72IXm3S8wrG2Kq2DR2VbmrnvsjUhfvrCO53gzHiGzGuVCqdFGO4IQSvNugJuJVKpRK9byljbDvbyXazAbaG9M29oO9NH1z+Znj44m/vLF/NCMumf3sdf7203kpU6ss5km5YL5liXOa+cF+jTD0P1+it09EZ859RHbv2HkvJ/ORlBbpa9dqiv0vOmUmWj6ngeiQ4poK1JvV2FfXS8JmslYG17d1RPs9W0U3wH2IDbA8bZPvZAOsP1JPaiZ5nnNkDL7jurald3RspvzWgnaXQDnWj2mVBO5xHp50dUbt1U2+nZS6kHYe5JMMczGvKcAnRJ4f65Cr/m4X0WckY62c75+r3sefZIBtiL4JG4rjNKxzu2re36Kw82E016gCNbLp2VoR7GAm+w1o6HRzSo4kO+QeLnszpTsV/MNDBCxZGHZnXVrAR8xfgWSM+m+16YPjwu/ZnR5+9GmLxBLBwFCzqgAXW0rFIRGRx6cArnkwTFvUGLHqBhejp9paOty4dHJ38vKu3jbLoARYJBYt6YIG1dCySEVmM1R3xZJqwaDBg0QcsRE/FyZZfvvjuycmtd81coyyeAxZJBYsGYIG1dCzciCwmHnvTk2nCotGART+wED3tOLJ6w7Zbxz9d2zndSFmMAAtXwaIRWGAtHYtURBbj/ctrZC7EQu41Ftln5LM645WP95AhHPaqud+5NOwL2uEZ5/C8vN2x8vnE/MeF5Pxprzt/2ief+024d1nledFXOoa+UDWmmi/k/5Ev5BF9YSusQ7EeWqzOY7cLG9de//7PZroOR8k65MHaod6Cgy9MEW/BFb4Q59Gt0XREb/Fqrt2XGdUX0r6ll+MaX5giv8nUF3KNL+SL8oWtIe3EfCeaD92/74J1c2vrh4eodh+BdmmFdjTToB36QpxHp50XUTt3zylfZlRfyBflC8sMVxF9VL6QL9oXhjUSPO4u9r03O3j+128fbf+banQUNPLgOc8VvhBr6XSoific/6rlnC+z2p7HwRd6hr5Q9HRt4svBLQ8V38g3j6+jLMaBRY2CBfpCrKVjkYnI4uPtl32ZJizqDVigLxQ9Df186venH28aqt3f/hdlcRZYZBQs0BdiLR0LPyKL03/86Ms0YdFgwAJ9oegpcWXmtZfW9/T6P+zOUhaTwMJXsEBfiLV0LLIRWfT8dN2XacKi0YAF+kLR06buibbc5jPvn9sx7VIWN4BFVsECfSHW0rFYEpHF17umfJnVfCEHX+gRX8gNfSFX+MIatS/MVHyhX/GF2bAv5ApfSP2ADXt4M/gB+k7JhvdAeK93Z/m+ZVV8Jvo0cV3Ztxi7l7wLXFZl31O9CxS8/gHhgS9OhCUAAA==',
    contents: [
      [0, 'H4sIAAAAAAACA/N18w1mZICAehYAPncINQ4AAAA='],
      [
        4096,
        'H4sIAAAAAAACA62Wv2sUQRTHv3u7e3c7m0khkkYLG1GbkOsULLTXwv/AmLuDqOHI+QO0EH+1ooilhYJVtBSEVKIoFiGJhYqFitjGPqXsZib77pwX33MzzXxhH983n/fuZl6UAC82I0TYWo0pbOvfJ7G9GhhdybK9UOyv186LdJpVvt5rL4A+5nERPcy43P7bs1tVrojJfWrxZVui6zBxvkVMM/vbIyLnjQRM6Q5MJ+7/DGrPtBu+a+v7spEYU/kWXvsBXMEl9DDENAboA2WvUlPlit1+AMAQPSxggKvooYuZkj9W9PTYr0eZRNfpKefrexozPY1IT2NF7WmOQ+8fB3URQ2uKf9T0f9k3ZpeykC5iOC4ouahvyZVX503cfhhAF/Ml2xwuY4Ahrjm2RME2ffy6kWiuZrGgZpxvea+1qvOmhHHW/U5SBcun23eMRHM1igU14nyLGMrSJCznHEtTwbI8dc9INMeSCFg433GWFvGccywtBcuP0w+NRHMsqYCF8x1naROWrmNpa+6C7sFcojmWpoCF8/X/Q43vuj2TS3zpfJEF5ouOq1WmeIvu7jlqJbrO3cL5+rcoY96iBnmLMsVbRHPgyVJQe6bd8H33/NUon6l8ufmiMzZfGPYt7JT8RtHT1sIbK9F1esr5+p4apqcx6alR1J7meHDjQ1AXMbL5ooM67De/rNiQ9vOFUcwXHBf1LbnIfJHvOF9sseWK+/LtkY9WormaJYKacb5+vvDnnQjMFxMKlqf9z1aiuRrFghpxvkUMZbGB+cIqWFY3vlqJ5lgSAQvnO84yGZgvJhUsZ799txLNsaQClpDvH6Rsk8f8DwAA',
      ],
      [
        8192,
        'H4sIAAAAAAACAzuseZGXlZ2BgZsBAvihNAsDA0MKAwMDkxhC7K0jAxwwMaACll282SD6SNZjXmLYIHO5sZjLhsPcw5oXCZoLUkOquUHpL4kyl5WTgYERzQwRBgaGNIZMhhyGVAYDaFgxYrGbBYfdB85nwdl9nMx82NggNSBzYeG9pJEBA7CimetTuIUDxnbof8iBzVyQGgAkWu2f/AEAAA==',
      ],
      [1073741824, 'H4sIAAAAAAACA0tJLEk0YBi5oLgkMydnBPs/JbEk0XCkxz8AG5tlEwUDAAA='],
    ],
    removal: 36n,
    renaming: 36n,
    guests: [
      {
        file: 15309837158452122918n,
        fh: 4294967296n,
        removed: 18088434629646615793n,
        removedFh: 4294967297n,
        directory: 8822959917521504863n,
        listing: 4294967298n,
        read: ['.', '..', 'a', 'b'],
        cookie: 4n,
      },
      {
        file: 3911484022945022505n,
        fh: 4294967296n,
        removed: 17582848386946966206n,
        removedFh: 4294967297n,
        directory: 16848652260872518169n,
        listing: 4294967298n,
        read: ['.', '..', 'a', 'b'],
        cookie: 4n,
      },
    ],
  },
  {
    version: 5,
    journal:
      'H4sIAAAAAAACA+2YXWhURxTHz9z93r2bXeMSwhIlLTEGo1nFbA2aotaijaJQpH6iaLJRtLUJGooaxaSlKVIstkJfSouloRVfxNKiSEHF+KIGUVERUelDUYwfDwYj/WDbSe5kzz2dcWcEX+QeOOzdufNx7u8/e+fPLpu/dGEARqJJXHjhhRdeeOGFF1544YUXXnjhhRevVPjj7u9MY0ycAfgs+XjrBda00NrVAFBb//acwp3k8A27zN13jtM/5Izhd/i4fD5/ko9hmg8TTTo1kefP5/N53C8FABtgE3wArTDVafPx/tGRMZ8OvdM/7kxtd7bpko2fKwwAKwbGzwuG3IxF8j5WwN3Ow57krms/yNdhCt1UOnzyLP6+7HP5kmNVInu7JeiS8j0SjheeAxw9aJ8IabODDnuy74QWtoYWG6ENPpRowesYmDvuxKP+93b5ntW0Yx420eJ/OiAtLIkWNtGCrqPSwmeoxZaD6yaLfJ4WjKwl+CXJujr8EkiXJNWldOS6tIguNQCQg02wFVqhBTqgDbbCDmcFoQ//3Lj3YurOH+fu7kr8egHrk3T0ERr4sAbV7hq6nHt0LpUGflSjjgavHeifIvLhXMnvyYEULSkwFev6JGz4+uvJXuVt30ab2x8uyD1eHLj6MWaRIiz8EhYpwoLOpWIRMGTRWBnLiNRhUabBopmw4DWdeVKau7K9s/rBlMw8zKKcsAhIWJQRFnQuFYugIYvBQ7szInVYlGuwaCEseE0zZ5zqvfXdwu+/XnX6EWZRQVgEJSzKCQs6l4pFyJDFvX96MiJ1WKQ1WOQIC15T7vLnX/68J/1Nb2D1TcyikrAISVikCQs6l4pF2JBFX3hfRuTzWIizx0LnjnhP286BWIGGMHIWDT9nyn3GN5B3nJ/Vie5+q64uMNq8Pjh62RwavWwR7/3xpOSE016JGFmo/XWipz/uPpN8Bl6SScb7Nb2kbEwxL8lekpdkhl5yGtnvfN/1XFh+Nzb2yJr7h2/X4P1ehfwLI14yjPyL+I79C5N4SbqO6rcQMfQvg7OvTxdp6iXDqE5dL8kUXpIZekmqBV9rrTV78Gb6t66Grr1/YS1qiBY4I0SLiEQL6iXpOiotooZadCz4sV6kqZdkhl5S8KtFusi8JHthLznNpQ9nUdHZOf2Xg6d+WNR3fBvWZzI6G8T+wGcDk3hJOpdKg5jh2QDtk7Iii52TjHjJqKaX5DVdOzJh5psdTSf3Px0TwyymEhYxCQvqJelcKha2IYvboflZkTosyjRYUC/Ja2rs/JvFfj/w1a3Pzv+JWdQTFraEBfWSdC4Vi7ghi1n9i7MidViUa7CgXpLX9Maqnu6+gdCJ3JJFCcyigbCIS1hQL0nnUrEoMWTxxY53syJ1WKQ1WFAvyWuK/HR059ndQ29Z+64NYRaNhEWJhAX1knQuFYuEIYvNN1ZmRRbzkox4ySjykkzTSzKJl4zJvaRd8JLxgpcscXtJpvCSDHnJMPKSDHnJsKOX+C+jSuP8of/L8dqjY0fmrSriJakX49+3QBt8BK3D+2fif53+BbxDhPUkJQAA',
    contents: [
      [0, 'H4sIAAAAAAACA/N18w1mZICAahYAOrJkUQ4AAAA='],
      [
        4096,
        'H4sIAAAAAAACA62WP2gUQRTGv73dvb3du0slQdDCoGAIp5fFbKUiFmqlKBhsNcklBv+cnAmSQlAEO9NYWQgWIlpbCIJd2oCFaCFY29il0EKQWXduX855l/e8TLMf3OOb+b2Pm3leAHx+H8HD31UZR1//OI3+qmD7evSzecN8L359s1eiw7j0tV57ACxiGTfRwXSxt/3t5cNyL4/Z+8qFd4ckehQmztfUVON/PTxyXk/AFA5her5x8LBLW6bd8G2c+ThFa4Kk9DVe+wGs4i466OEoulgE8qxonj7Jcwld3CZ5+oo8b7242pLoUfLkfG2ePpOnR/L0FX2ne1yfW3dqU0P7iSH9/F/uew8+tVza1HBMUDJR35ypXp43KL6TABawjB46mMcKuuhhDdM5W6Bgm3i6eUSiuZ75gp5xvvl9FpXnDQnjtSKnUMFy4kC9LdFcj3xBjzhfU0NZqoRlrmCpKli2Xt9vSzTHEghYON9Bloh4zhcskYLl++/HbYnmWEIBC+c7yFIjLAsFS03BslF70pZojqUqYOF87f9Q4zsbL6USX3pvxo65Ii16FSveoa1TX45J9Ch3C+dr36GYeYcq5B2KFe8Q3ePXs30zLm2ZdsP35OTsNl8zV8Q7zBXpwFyRON5Bm2eiyHPl3KsZiR4lT87X5pkwefokz0TRd7pH6/JbpzY1O80V6ZC5QsLd+jCRubSdKxLFXMEyEd+cicwV9aFzRZqz1RX3JO5MZRLN9SwQ9IzztXOFPW/DMVc0FCzforOZRHM98gU94nxNDWVpOuaKpoLl+Ob5TKI5lkDAwvkOsow55ooxBcv62qVMojmWUMDC+fZZ/gCGNQqf+Q8AAA==',
      ],
      [
        8192,
        'H4sIAAAAAAACA+NngAAWBgaGFAYGBiYxBgZ+qNhbRwY4YGJABc0/eLNBdNbNSFNi2CBzubGYy4bDXIYCLYLmgtSQau6aWYuIMpeVk4GBEc0MEQYGhjSGTIYchlQGA2hYMWKxmwWH3QG3V0rA2LziO02xsUFqQObCwntJIwMGYEUzN9xvuwqMPfeIsjo2c0FqANXxhbXsAQAA',
      ],
      [1073741824, 'H4sIAAAAAAACA0tJLEk0YBi5oLgkMydnBPs/JbEk0XCkxz8AG5tlEwUDAAA='],
    ],
    removal: 36n,
    renaming: 36n,
    guests: [
      {
        file: 9307747587656841093n,
        fh: 4294967296n,
        removed: 8959293458931859947n,
        removedFh: 4294967297n,
        directory: 16702414914346518887n,
        listing: 4294967298n,
        read: ['.', '..', 'a', 'b'],
        cookie: 4n,
      },
      {
        file: 6750635308298521734n,
        fh: 4294967296n,
        removed: 9276318864474309214n,
        removedFh: 4294967297n,
        directory: 11799607719528987420n,
        listing: 4294967298n,
        read: ['.', '..', 'a', 'b'],
        cookie: 4n,
      },
    ],
  },
];
